"""What a comparison will do, once everything that was asked for is understood."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ppvae.comparison.folders import OF_LABORATORY, settings_hash
from ppvae.comparison.options import CompareConfig
from ppvae.comparison.words import split_estimators
from ppvae.config import TrainConfig
from ppvae.data import Dataset
from ppvae.errors import UsageError
from ppvae.estimators import OWN, Estimator, spelled
from ppvae.estimators import find as find_estimator
from ppvae.linter import check
from ppvae.pair import Pair
from ppvae.registry import find, source_hash
from ppvae.trained import prepare

Estimators = str | Iterable[str | Estimator] | Mapping[str, str | Estimator]


@dataclass(frozen=True)
class Plan:
    """The pair found and checked, its data loaded, the estimators made."""

    place: Pair | str
    """As the user gave the pair."""
    pair: Pair
    config: CompareConfig
    estimators: dict[str, Estimator]
    training: TrainConfig
    """Of every cell, but for its seed and estimator."""
    data: Any
    """As the user gave them."""
    dataset: Dataset | None

    @classmethod
    def make(cls, place: Pair | str, estimators: Estimators | None, data: Any, config: CompareConfig) -> Plan:
        """Raises what is wrong with the pair, the data, the options or an estimator's name."""
        pair, made = find(place), named(estimators or config.estimators)
        training = config.training(pair.train)
        for name, estimator in made.items():  # known now, and not after hours
            if training.kl_warmup and not hasattr(estimator, "beta"):
                raise UsageError(f"{name} has no beta that kl_warmup could raise: leave one of them out")
        found, built, dataset = prepare(place, data, training)
        check(found, dataset, built=built, seed=config.seed).raise_if_broken()
        if dataset is None and not config.probe:
            raise UsageError(
                f"pair {pair.name!r} has no data to test on: look at its gradients alone, --probe"
            )
        return cls(place, pair, config, made, training, data, dataset)

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """What grid.yaml says: the options as they came out, the pair, and the data."""
        in_memory = not isinstance(self.place, str)
        where = self.pair.name or "pair" if in_memory else self.place
        training = self.training.to_dict()
        for name in ("out", "progress", "device", "threads", "estimator", "seed"):
            del training[name]
        named_data = isinstance(self.data, str | Path)
        recorded = {
            "pair": where,
            **self.config.to_dict(),
            "estimators": [_recorded(name, e) for name, e in self.estimators.items()],
            "data": str(self.data) if named_data else self.config.data,
            "pair_hash": None if in_memory else source_hash(str(where)),
            "pair_in_memory": in_memory,
            "data_hash": None if self.dataset is None else self.dataset.hash,
            "data_in_memory": self.data is not None and not named_data,
            "training": training,
        }
        return json.loads(json.dumps(recorded, default=str))  # as it is read again: a tuple is a list there

    def settings(self, estimator: str) -> str:
        """A hash of everything that a cell of this estimator depends on, beside its seed."""
        return settings_hash({**self.recorded, "source": _source(self.estimators[estimator])})

    @property
    def laboratory_settings(self) -> str:
        sources = [_source(estimator) for estimator in self.estimators.values()]
        chosen = {name: self.recorded[name] for name in OF_LABORATORY}
        return settings_hash({**self.recorded, "sources": sources, "chosen": chosen})


def named(estimators: Estimators) -> dict[str, Estimator]:
    """The estimators by the names to show: as they were listed, or as a mapping names them.

    Raises:
        UsageError: an unknown name, or one listed twice.
    """
    if isinstance(estimators, Mapping):
        mapping: Mapping[str, str | Estimator] = estimators  # type: ignore[assignment]
        for name in mapping:
            if split_estimators([name]) != (name,):
                raise UsageError(f"{name!r} is no name for an estimator: leave commas and = out of it")
        return {name: find_estimator(given) for name, given in mapping.items()}
    found: dict[str, Estimator] = {}
    spellings: set[str] = set()
    listed = [estimators] if isinstance(estimators, str) else list(estimators)
    for given in listed or [""]:
        for text in split_estimators(given) if isinstance(given, str) else (given,):
            if isinstance(text, str) and text.startswith(OWN):
                raise UsageError(
                    f"the comparison has an estimator of your own, {text.removeprefix(OWN)}: list it again, "
                    "--estimators FILE.py:CLASS ..."
                )
            estimator = find_estimator(text)
            spelling = spelled(estimator)
            name = text if isinstance(text, str) else spelling.removeprefix(OWN)
            name = name.replace("particles=", "k=")
            if spelling in spellings or name in found:
                raise UsageError(f"estimator {name!r} is listed twice: list it once, --seeds repeats it")
            spellings.add(spelling)
            found[name] = estimator
    return found


def _recorded(name: str, estimator: Estimator) -> str:
    """What is not found again by its name is marked as the user's own: nothing that a folder names is
    imported."""
    spelling = spelled(estimator)
    if not spelling.startswith(OWN):
        with contextlib.suppress(UsageError):
            if spelled(find_estimator(name)) == spelling:
                return name
    return f"{OWN}{name}"


def _source(estimator: Estimator) -> str | None:
    """SHA-256 of the file that defines an estimator of the user's own."""
    if not spelled(estimator).startswith(OWN):
        return None
    try:
        file = inspect.getsourcefile(type(estimator))
    except TypeError:
        file = None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None

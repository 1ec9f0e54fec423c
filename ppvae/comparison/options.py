"""The options of a comparison, in one place: `compare`'s, the command line's and those of a YAML schedule.

This file imports neither torch nor Pyro, so that `ppvae compare --help` answers at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ppvae.comparison.words import split_estimators
from ppvae.config import TrainConfig, fitting, kinds_of
from ppvae.errors import UsageError, nearest
from ppvae.option_files import read_options


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared, and how. Each estimator is trained as often as there are seeds, under one budget."""

    estimators: tuple[str, ...] = ()
    """By name and options: elbo iwae:k=5,beta=1 dreg:k=50, or elbo,stl; the first is what others are held
    against."""
    seeds: int = 3
    """How many seeds each estimator is trained with."""
    data: str | None = None
    """Name of a data set, or path of an .npz file or a folder of pictures; none: the pair's own."""
    binarization: Literal["none", "static", "dynamic", "threshold"] | None = None
    """How grey pixels become bits; none: as the data are."""
    train_n: int | None = None
    """Train on so many of the training data, always the same sample of them; none: on all."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments of the pair's model and guide, such as latent=20."""
    epochs: int | None = None
    """Budget in passes over the training data; none: what suits the pair."""
    steps: int | None = None
    """Budget in steps, whatever the epochs say."""
    budget_seconds: float | None = None
    """Budget in seconds of training, evaluation not counted, in the place of epochs and steps."""
    batch: int | None = None
    """Data in a batch; none: what suits the pair."""
    lr: float | None = None
    """Learning rate; none: what suits the pair."""
    train: dict[str, Any] = field(default_factory=dict)
    """Any further options of training, such as clip_norm=10 schedule=linear."""
    seed: int = 0
    """The first seed; the others follow it."""
    curve_points: int = 20
    """Points of a test curve."""
    curve_n: int = 500
    """Test data of the curves, a fixed sample."""
    curve_k: int = 16
    """Importance samples per datum for log p in the curves; 0: none."""
    eval_k: int = 1000
    """Importance samples per datum for log p at the end; 0: none."""
    eval_n: int = 1000
    """Test data for that, a fixed sample; the test elbo uses all."""
    probe: bool = False
    """Only the gradient laboratory, without training each estimator."""
    repeats: int = 100
    """Gradients of each estimator in the laboratory; 0: no laboratory."""
    probe_steps: int = 100
    """The laboratory looks at the parameters that the first estimator reaches in so many steps."""
    keep: bool = False
    """Keep a run folder with the trained parameters of each estimator and seed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""
    threads: int | None = None
    """CPU threads of torch; none: torch's own choice."""
    out: Path = Path("runs")
    """Folder that holds the comparison's folder."""
    progress: bool = True
    """Show how far the grid is: a bar where there is a terminal, else a line for each that is done."""

    def __post_init__(self):
        words = self.estimators
        object.__setattr__(self, "estimators", split_estimators(words) if words else ())
        for name, kinds in kinds_of(type(self)).items():
            if name != "estimators":
                object.__setattr__(self, name, fitting(name, getattr(self, name), kinds))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name}={value} is too small: use at least {least}")
        if 0 < self.repeats < 8:
            raise UsageError(f"repeats={self.repeats} tell nothing of a spread: use 0, or at least 8")
        if self.probe and not self.repeats:
            raise UsageError("probe=true with repeats=0 does nothing: give some repeats, such as 100")
        if self.budget_seconds is not None and (self.steps or self.epochs):
            raise UsageError("budget_seconds is a budget beside steps and epochs: give one of them")
        if self.budget_seconds is not None and not 0 < self.budget_seconds < float("inf"):
            raise UsageError(
                f"budget_seconds={self.budget_seconds} is no positive number: use one such as 60"
            )
        own = {f.name for f in dataclasses.fields(self)} | {"estimator"}
        for name in self.train:
            if name in own:
                raise UsageError(f"train: {name} is an option of the comparison itself: give it there")
        if self.train.get("schedule", "constant") != "constant" and self.budget_seconds is not None:
            raise UsageError("a schedule needs a number of steps: give steps, or leave the schedule out")
        if "patience" in self.train:
            raise UsageError("patience would end the budgets unequally: leave it out")
        self.training({})  # refuses what TrainConfig does not know

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CompareConfig:
        """Raises UsageError for an unknown option, with the nearest one."""
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                close = nearest(name, known) if isinstance(name, str) else ""
                raise UsageError(f"no option {name!r}{close or ':'} There are: {', '.join(sorted(known))}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        found = dataclasses.asdict(self)
        return {**found, "estimators": list(self.estimators), "out": str(self.out)}

    def training(self, own: Mapping[str, Any]) -> TrainConfig:
        """The options of one training, above the pair's own; its seed and estimator are still the first."""
        given = {name: getattr(self, name) for name in ("epochs", "steps", "batch", "lr")}
        given = {name: value for name, value in given.items() if value is not None}
        if "epochs" in given:
            given.setdefault("steps", None)
        return TrainConfig.from_dict(
            {
                **own,
                **self.train,
                **given,
                "data": self.data,
                "binarization": self.binarization,
                "train_n": self.train_n,
                "sizes": self.sizes,
                "seed": self.seed,
                "device": self.device,
                "threads": self.threads,
                "patience": None,
                "check": False,
                "progress": False,
                "eval_k": 0,
            }
        )


def read_schedule(path: Path) -> tuple[str | None, dict[str, Any]]:
    """(pair or None, options) of a YAML file that names a comparison: the options of `compare`, and `pair`.

    Raises:
        UsageError: says what is wrong with which file.
    """
    values = read_options(path, "a comparison's options")
    pair = values.pop("pair", None)
    if pair is not None and not isinstance(pair, str):
        raise UsageError(f"{path}: pair={pair!r} is no name of a pair: write pair: vae")
    try:
        CompareConfig.from_dict(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return pair, values


_LEAST = {
    "seeds": 1, "seed": 0, "train_n": 1, "epochs": 1, "steps": 1, "batch": 1, "curve_points": 1, "curve_n": 1,
    "curve_k": 0, "eval_k": 0, "eval_n": 1, "repeats": 0, "probe_steps": 0, "threads": 1,
}  # fmt: skip

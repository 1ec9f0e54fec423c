"""One cell of the grid: one estimator trained with one seed, its test curve and what it came to."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from ppvae.built import Built
from ppvae.comparison.failures import told as told_of
from ppvae.comparison.timed_loop import UNENDING, Diverged, TimedLoop
from ppvae.config import TrainConfig
from ppvae.data import Dataset, Split
from ppvae.environment import environment
from ppvae.errors import DataError, PairError, RunError, UsageError
from ppvae.estimators import Estimator
from ppvae.evaluation import evaluate, evaluating, log_likelihood, mean_terms
from ppvae.evaluation.means import batches
from ppvae.pair import Pair
from ppvae.training import run_loop

METRICS = ("elbo", "log_likelihood")
"""The bounds that estimators are compared by."""
CURVE_SEED = 40_000
"""Of the curves' test data and of the draws on them: the same for every cell and point."""
KEPT = (
    "elbo", "elbo_stderr", "log_likelihood", "log_likelihood_stderr", "rate", "rate_stderr", "distortion",
    "distortion_stderr", "bits_per_dim", "bits_per_dim_stderr", "active_units", "k", "n", "n_elbo", "split",
    "seed", "reasons",
)  # fmt: skip


@dataclass
class Cell:
    """What came of one training. Bounds are in nats per datum, higher is better."""

    estimator: str
    seed: int
    status: Literal["done", "refused", "diverged", "failed"]
    line: str = ""
    """Why it was refused, how it diverged, or what it raised."""
    steps: int = 0
    seconds: float = 0.0
    """Of training: looking at test data is not counted."""
    initial: str = ""
    """SHA-256 of the initial parameters, equal for all estimators of a seed."""
    curve: list[dict[str, float | None]] = field(default_factory=list)
    """`step`, `seconds`, `elbo`, `log_likelihood` and their `_stderr` over the sample of the test data."""
    final: dict[str, Any] = field(default_factory=dict)
    """What `ppvae.evaluate` says at the end."""
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.estimator}, seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Cell:
        return cls(**saved)


@dataclass(frozen=True)
class Evaluation:
    """How cells are looked at on their way and at the end."""

    points: int = 20
    curve_n: int = 500
    curve_k: int = 16
    eval_k: int = 1000
    eval_n: int = 1000


def split_to_test(dataset: Dataset) -> str:
    """The split that bounds are reported on: test, where there is one."""
    return next(name for name in ("test", "valid", "train") if dataset.splits.get(name))


def train_cell(
    pair: Pair | str,
    data: Any,
    estimator: Estimator,
    name: str,
    config: TrainConfig,
    evaluation: Evaluation,
    *,
    budget_seconds: float | None = None,
    save: bool = False,
    told: Callable[[float, dict[str, Any]], None] = lambda share, entry: None,
) -> Cell:
    """Train one estimator under `config`, whose seed is the cell's; what it refuses or raises is its line.

    Raises:
        RunError, DataError: nothing that another estimator would be spared, such as a disk that is full.
    """
    cell = Cell(name, config.seed, "done", environment=environment())
    if budget_seconds is not None:
        config = dataclasses.replace(config, steps=UNENDING)
    watch = _Watch(cell, evaluation)
    make = partial(_made, watch=watch, points=evaluation.points, budget_seconds=budget_seconds, told=told)
    try:
        trained = run_loop(pair, data, copy.deepcopy(estimator), config, save=save, make=make)
        assert trained.dataset is not None
        cell.final = _final(trained.built, trained.dataset, evaluation)
    except (PairError, UsageError) as error:
        cell.status, cell.line = "refused", str(error)
    except Diverged as error:
        cell.status, cell.line = "diverged", str(error)
    except (RunError, DataError):
        raise
    except Exception as error:
        cell.status, cell.line = "failed", told_of(error)
    else:
        if not math.isfinite(cell.final["elbo"] or 0.0):
            cell.status, cell.line = "diverged", f"the test elbo is {cell.final['elbo']} nats per datum"
    if watch.loop is not None:
        cell.steps, cell.seconds = watch.loop.step_count, watch.loop.spent
    return cell


def _made(*args: Any, watch: _Watch, **options: Any) -> TimedLoop:
    watch.loop = TimedLoop(*args, look=watch, **options)
    return watch.loop


class _Watch:
    """Looks at a loop: one point of the curve."""

    def __init__(self, cell: Cell, evaluation: Evaluation):
        self.cell, self.evaluation = cell, evaluation
        self.loop: TimedLoop | None = None
        self.sample: Split | None = None

    def __call__(self, loop: TimedLoop) -> None:
        if self.sample is None:
            self.sample = self._sampled(loop)
            self.cell.initial = hash_of(loop.built)
        found = mean_terms(loop.built, self.sample, seed=CURVE_SEED)
        point = {"step": loop.step_count, "seconds": loop.spent}
        point |= {name: found[name] for name in ("elbo", "elbo_stderr")}
        if self.evaluation.curve_k:
            point |= self._log_likelihood(loop.built)
        self.cell.curve.append(point)

    def _sampled(self, loop: TimedLoop) -> Split:
        assert loop.dataset is not None
        split = loop.dataset.fixed(split_to_test(loop.dataset)).to(loop.built.device or "cpu")
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(CURVE_SEED))
        return split.subset(order[: self.evaluation.curve_n].to(split.device))

    def _log_likelihood(self, built: Built) -> dict[str, float | None]:
        found = []
        try:
            with evaluating(built, CURVE_SEED):
                for batch in batches(built, self.sample, 100):
                    found.append(log_likelihood(built, built.inputs(batch), self.evaluation.curve_k).double())
        except PairError:  # its weights are not one number a datum: the elbo alone is shown
            return {}
        values = torch.cat(found)
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
        return {"log_likelihood": float(values.mean()), "log_likelihood_stderr": error}


def hash_of(built: Built) -> str:
    """SHA-256 of all parameters, in hex."""
    digest = hashlib.sha256()
    for name, parameter in sorted(built.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _final(built: Built, dataset: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    """What is kept of `ppvae.evaluate`; without importance samples only what one draw a datum tells."""
    split = split_to_test(dataset)
    if evaluation.eval_k:
        found = evaluate(built, dataset, k=evaluation.eval_k, n=evaluation.eval_n, split=split)
        return {key: found[key] for key in KEPT if key in found}
    found = mean_terms(built, dataset.fixed(split).to(built.device or "cpu"), seed=0)
    if built.pair.bound == "none":
        found = {**found, "elbo": None, "elbo_stderr": None}
    found |= {"split": split, "n_elbo": len(dataset.splits[split]), "log_likelihood": None}
    return {key: found[key] for key in KEPT if key in found}

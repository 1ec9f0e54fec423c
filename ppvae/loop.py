"""The training loop: batches in, steps taken, what happened logged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.data import Dataset
from ppvae.errors import RunError
from ppvae.estimators import Estimator
from ppvae.evaluation import mean_terms
from ppvae.pair import Pair
from ppvae.progress import Progress
from ppvae.runs import Run
from ppvae.step import STEPS, EagerStep, PyroStep
from ppvae.trained import Trained

VALIDATION_SEED = 20_000


class Loop:
    """One training run: everything that changes while it goes, and that a checkpoint holds."""

    def __init__(
        self, pair: Pair, built: Built, dataset: Dataset | None, estimator: Estimator, config: TrainConfig
    ):
        self.pair, self.built, self.estimator, self.config = pair, built, estimator, config
        self.dataset = dataset
        self.train = None if dataset is None else dataset.train.to(built.device or "cpu")
        rows = 1 if self.train is None else len(self.train)
        self.batch = min(config.batch, rows)
        self.steps_per_epoch = max(1, rows // self.batch)
        self.total = config.steps or self.steps_per_epoch * config.epochs
        has_valid = dataset is not None and dataset.valid is not None
        self.valid = (
            dataset.fixed("valid").to(built.device or "cpu") if dataset is not None and has_valid else None
        )
        self.run: Run | None = None
        self.step_count, self.seconds_before, self.stopped = 0, 0.0, False
        self.window = Window()
        self.knobs: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, int] | None = None
        self.best_state: dict[str, Tensor] | None = None
        self.step: EagerStep | PyroStep = STEPS[config.engine](built, estimator, config)
        self.keep: Callable[[], None] = lambda: None
        """Keeps a checkpoint; does nothing where there is no run folder."""

    def go(self) -> Trained:
        built = self.built
        built.train()
        self.started, first = time.monotonic() - self.seconds_before, self.step_count
        self._say(f"training {self.pair.name} by {self.config.estimator}: from step {first} to {self.total}")
        try:
            with Progress(self.total, first, self.config.progress, label=self.pair.name) as progress:
                while self.step_count < self.total and not self.stopped:
                    self._epoch(self.step_count // self.steps_per_epoch, progress)
            if self.run is not None and self.step_count > first:
                self.keep()
            self._say("stopped early" if self.stopped else f"trained: {self.step_count} steps")
        finally:
            if self.run is not None:
                self.run.close()
        if self.best_state is not None:
            built.load_state_dict(self.best_state)
        built.eval()
        return Trained(self.pair, built, self.dataset, self.config, self.history, self.run, self.step_count)

    def _say(self, text: str) -> None:
        if self.run is not None:
            self.run.log(text)

    def _epoch(self, epoch: int, progress: Progress) -> None:
        """The rest of an epoch, or of the training; then validate, and keep a checkpoint."""
        for batch in self._batches(epoch):
            self.knobs = self._knobs()
            self.window.add(self.step(batch, self.knobs, self._lr_factor()))
            self.step_count += 1
            last = self.step_count == self.total
            if last or self.step_count % self.config.log_every == 0:
                self._log(epoch)
                progress.update(self.step_count, self.history[-1])
            if last:
                break
        self._validate(epoch, progress)
        going_on = self.step_count < self.total and not self.stopped
        if self.run is not None and going_on and (epoch + 1) % self.config.checkpoint_every == 0:
            self.keep()

    def _batches(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """The rest of this epoch's batches: the order is a function of seed and epoch alone."""
        if self.train is None:
            for _ in range(self.steps_per_epoch):
                yield {}
            return
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.train), generator=generator).to(self.built.device)
        for i in range(self.step_count - epoch * self.steps_per_epoch, self.steps_per_epoch):
            yield self.train.batch(order[i * self.batch : (i + 1) * self.batch])

    def _knobs(self) -> dict[str, Tensor]:
        """The scheduled values of this step: those that the estimator moves, and beta's warm-up."""
        moved = self.estimator.schedule(self.step_count)
        if self.config.kl_warmup:
            risen = min(1.0, self.step_count / self.config.kl_warmup)
            moved = {**moved, "beta": risen * float(self.estimator.beta)}  # type: ignore[arg-type]
        return {name: torch.tensor(value, device=self.built.device) for name, value in moved.items()}

    def _lr_factor(self) -> float:
        done = self.step_count / self.total
        return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[
            self.config.schedule
        ]

    def _log(self, epoch: int) -> None:
        means = self.window.means()
        self.refuse_nan(means["loss"])
        knobs = {name: float(value) for name, value in self.knobs.items()}
        self._record(
            {
                "step": self.step_count,
                "epoch": epoch,
                **means,
                **knobs,
                "seconds": time.monotonic() - self.started,
            }
        )
        if self.step_count % self.config.log_every == 0:
            self.window.clear()

    def _record(self, entry: dict[str, Any]) -> None:
        self.history.append(entry)
        if self.run is not None:
            self.run.log_metrics(**entry)

    def refuse_nan(self, loss: float) -> None:
        if not math.isfinite(loss):
            first = self.step_count - self.window.count + 1
            raise RunError(
                f"the loss became {loss} between steps {first} and {self.step_count}: "
                "use a smaller --lr, --clip-norm 10, or check the data for extreme values"
            )

    def _validate(self, epoch: int, progress: Progress) -> None:
        """The validation elbo where it is due and at the end; `stopped` after `patience` without a better."""
        due = self.is_due({"step": self.step_count, "epoch": epoch, "valid_elbo": None})
        if self.valid is None or not (due or self.step_count == self.total):
            return
        value = validation_elbo(self.built, self.valid, self.config.batch)
        self._record({"step": self.step_count, "epoch": epoch, "valid_elbo": value})
        progress.update(self.step_count, self.history[-1])
        if self.config.patience is None or not due:
            return
        if self.best is None or not value <= self.best[0]:
            self.best = (value, epoch)
            self.best_state = {name: t.clone() for name, t in self.built.state_dict().items()}
        self.stopped = epoch - self.best[1] >= self.config.patience

    def is_due(self, entry: dict[str, Any]) -> bool:
        """Whether a longer training would have this entry, too: the last step has more than that."""
        if "valid_elbo" in entry:
            ended = entry["step"] == (entry["epoch"] + 1) * self.steps_per_epoch
            return ended and (entry["epoch"] + 1) % self.config.validate_every == 0
        return entry["step"] % self.config.log_every == 0


class Window:
    """Means of the logged scalars since the last line, summed on the device."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.count for name, total in self.sums.items()}


@torch.no_grad()
def validation_elbo(built: Built, split: Any, batch: int) -> float:
    """The mean elbo over a split with one draw per datum under a fixed seed, in nats per datum.

    The caller's random state is left as it was, so that validating never changes what is trained.
    """
    return mean_terms(built, split, seed=VALIDATION_SEED, rows=max(batch, 512))["elbo"]

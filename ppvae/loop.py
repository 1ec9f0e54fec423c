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
from ppvae.engine import SHARED_STEPS, STEPS, EagerStep, SVIStep
from ppvae.engine.nonfinite import explain
from ppvae.engine.ranks import here
from ppvae.engine.shared_step import SharedStep
from ppvae.errors import RunError, UsageError
from ppvae.estimators import Estimator
from ppvae.evaluation import mean_terms
from ppvae.pair import Pair
from ppvae.progress import Progress
from ppvae.runs import Run
from ppvae.trained import Trained
from ppvae.window import Window

VALIDATION_SEED = 20_000


class Loop:
    """One training run: everything that changes while it goes, and that a checkpoint holds."""

    def __init__(
        self, pair: Pair, built: Built, dataset: Dataset | None, estimator: Estimator, config: TrainConfig
    ):
        self.pair, self.built, self.estimator, self.config = pair, built, estimator, config
        self.dataset, self.ranks = dataset, here()
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
        self.given: Any = {}
        """What the last step was given: the indices of its data."""
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, int] | None = None
        self.best_state: dict[str, Tensor] | None = None
        read = {} if self.train is None or not self.train.held else {"read": self.train.batch}
        n = self.ranks.size
        steps = STEPS if n == 1 else SHARED_STEPS
        if config.engine not in steps or (self.train is not None and self.batch < n):
            raise UsageError(
                f"engine={config.engine} with {self.batch} data a batch is not for {n} processes: use "
                f"--engine {' or '.join(SHARED_STEPS)}, and a --batch of {n} or more"
            )
        self.step: EagerStep | SVIStep = steps[config.engine](built, estimator, config, **read)
        self.keep: Callable[[], None] = lambda: None
        """Keeps a checkpoint; does nothing where there is no run folder. All ranks take part, one writes."""

    def go(self) -> Trained:
        built = self.built
        built.train()
        self.started, first = time.monotonic() - self.seconds_before, self.step_count
        self.step.left = self.total - first
        by = f", by {self.ranks.size} processes" if self.ranks.size > 1 else ""
        what = f"{self.pair.name} by {self.config.estimator}: from step {first} to {self.total}"
        self._say(f"training {what}{by}")
        try:
            shown = self.config.progress and self.ranks.first
            with Progress(self.total, first, shown, label=self.pair.name) as progress:
                while self.step_count < self.total and not self.stopped:
                    self._epoch(self.step_count // self.steps_per_epoch, progress)
            if self.step_count > first:
                self.keep()
            if self.step.account is not None:
                self._say(self.step.account)
            self._say("stopped early" if self.stopped else f"trained: {self.step_count} steps")
        finally:
            if self.run is not None:
                self.run.close()
        if self.best_state is not None:
            built.load_state_dict(self.best_state)
        built.eval()
        return Trained(
            *(self.pair, built, self.dataset, self.config, self.history, self.run, self.step_count),
            account=self.step.account,
        )

    def _say(self, text: str) -> None:
        if self.run is not None:
            self.run.log(text)

    def _epoch(self, epoch: int, progress: Progress) -> None:
        """The rest of an epoch, or of the training; then validate, and keep a checkpoint."""
        for batch in self._batches(epoch):
            self._step(batch)
            last = self.step_count == self.total
            if last or self.step_count % self.config.log_every == 0:
                self._log(epoch)
                progress.update(self.step_count, self.history[-1])
            if last:
                break
        self._validate(epoch, progress)
        going_on = self.step_count < self.total and not self.stopped
        if going_on and (epoch + 1) % self.config.checkpoint_every == 0:
            self.keep()

    def _step(self, given: Any) -> None:
        """One step. On the CPU one that is not finite is seen at once, and explained by its own draws."""
        self.knobs = self._knobs()
        on_cpu = self.built.device is None or self.built.device.type == "cpu"
        state = torch.get_rng_state() if on_cpu else None
        scalars = self.step(given, self.knobs, self._lr_factor())
        self.window.add(scalars, self.step.finite)
        self.step_count += 1
        self.given = given
        if on_cpu and self.config.on_nonfinite == "stop" and not bool(self.step.finite):
            self.refuse_nonfinite(float(scalars["loss"]), state)

    def _batches(self, epoch: int) -> Iterator[dict[str, Tensor] | Tensor]:
        """The indices of the rest of this epoch's batches, of each this rank's share: a function of seed and
        epoch alone, however many ranks there are."""
        if self.train is None:
            for _ in range(self.steps_per_epoch):
                yield {}
            return
        order = self.train.order(self.config.seed, epoch)
        for i in range(self.step_count - epoch * self.steps_per_epoch, self.steps_per_epoch):
            rows = order[i * self.batch : (i + 1) * self.batch][self.ranks.share(self.batch)]
            yield rows if self.train.held else self.train.batch(rows)

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
        means = self.means()
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

    def means(self) -> dict[str, float]:
        """What is logged of the steps since the last line; `skipped` of them were not finite.

        Raises:
            RunError: one was not finite, and the run is to stop then; or none was finite.
        """
        means, skipped = self.window.means()
        if skipped and (self.config.on_nonfinite == "stop" or skipped == self.window.count):
            self.refuse_nonfinite(means["loss"])
        return {**means, "skipped": float(skipped)} if skipped else means

    def _record(self, entry: dict[str, Any]) -> None:
        self.history.append(entry)
        if self.run is not None:
            self.run.log_metrics(**entry)

    def refuse_nonfinite(self, loss: float, random_state: Tensor | None = None) -> None:
        """Raise RunError: where and why the loss or a gradient was not finite. No parameter moved by it."""
        first = self.step_count - (0 if random_state is not None else self.window.count - 1)
        where = (
            f"in step {first}" if first == self.step_count else f"between steps {first} and {self.step_count}"
        )
        what = "a gradient is not finite" if math.isfinite(loss) else f"the loss became {loss}"
        rows = self.given.tolist() if isinstance(self.given, Tensor) else []
        if random_state is not None and isinstance(self.step, SharedStep) and bool(self.step.own_finite):
            why = "on another rank, which says why"
        else:
            why = explain(self.step, self.given, self.knobs, rows, random_state)
        self._say(f"stopped: {what} {where}: {why}")
        raise RunError(
            f"{what} {where}: {why}; use a smaller --lr, --clip-norm 10, check those data, or "
            "leave such steps out, --on-nonfinite skip"
        )

    def _validate(self, epoch: int, progress: Progress) -> None:
        """The validation elbo where it is due and at the end; `stopped` after `patience` without a better."""
        due = self.is_due({"step": self.step_count, "epoch": epoch, "valid_elbo": None})
        if self.valid is None or not (due or self.step_count == self.total):
            return
        valid = self.valid
        value = self.ranks.from_first(lambda: validation_elbo(self.built, valid, self.config.batch))
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


@torch.no_grad()
def validation_elbo(built: Built, split: Any, batch: int) -> float:
    """The mean elbo over a split with one draw per datum under a fixed seed, in nats per datum.

    The caller's random state is left as it was, so that validating never changes what is trained.
    """
    return mean_terms(built, split, seed=VALIDATION_SEED, rows=max(batch, 512))["elbo"]

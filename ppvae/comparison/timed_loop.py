"""A training loop that stops its clock to look at the test data, and that can end by the clock."""

from __future__ import annotations

import dataclasses
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
from ppvae.loop import Loop
from ppvae.pair import Pair
from ppvae.progress import Progress
from ppvae.trained import Trained

UNENDING = 2**31
"""The steps of a training that ends by the clock."""
LOOK_EVERY = 10
"""Steps between two looks at the clock: on a GPU each waits for what is under way."""


class Diverged(RunError):
    """The loss is no number any more."""


class TimedLoop(Loop):
    """`Loop` with a clock that runs while it trains, and `look(loop)` at fixed points of the budget.

    The points lie at (i / n)^2 of the budget, i = 0 .. n, in steps or in seconds: dense where much changes.
    Looking takes no time off the budget, no draw from the training's generator, and changes no parameter.
    """

    def __init__(
        self,
        pair: Pair,
        built: Built,
        dataset: Dataset | None,
        estimator: Estimator,
        config: TrainConfig,
        *,
        look: Callable[[TimedLoop], None],
        points: int,
        budget_seconds: float | None = None,
        told: Callable[[float, dict[str, Any]], None] = lambda share, entry: None,
    ):
        if config.engine == "auto":  # it would compile for some estimators, and not for others
            config = dataclasses.replace(config, engine="eager")
        super().__init__(pair, built, dataset, estimator, config)
        self.look, self.told, self.budget_seconds = look, told, budget_seconds
        self.spent = 0.0
        """Seconds of training so far."""
        budget = float(self.total) if budget_seconds is None else budget_seconds
        shares = [budget * (i / points) ** 2 for i in range(points + 1)]
        self.points = sorted({round(share) for share in shares}) if budget_seconds is None else shares
        self.looked_at = -1
        self._since: float | None = None

    def go(self) -> Trained:
        """Train; the last point is looked at when everything is done."""
        keep = self.keep

        def keep_off_the_clock() -> None:
            self._stop_clock()
            keep()
            self._start_clock()

        self.keep = keep_off_the_clock
        self._look_where_due()
        self._start_clock()
        trained = super().go()
        self._stop_clock()
        if self.window.count:  # steps that no line of the log has seen
            self.means()
        if self.looked_at != self.step_count:
            self._look()
        return trained

    def _batches(self, epoch: int) -> Iterator[dict[str, Tensor] | Tensor]:
        for batch in super()._batches(epoch):
            yield batch
            self._look_where_due()
            if self.stopped:
                return

    def _look_where_due(self) -> None:
        if self.budget_seconds is None:
            if self.step_count >= self.points[0]:
                self._pause_and_look()
        elif self.step_count % LOOK_EVERY == 0:
            self._stop_clock()
            self._start_clock()
            self.stopped = self.spent >= self.budget_seconds
            if self.spent >= self.points[0] and not self.stopped:
                self._pause_and_look()

    def _pause_and_look(self) -> None:
        self._stop_clock()
        self._look()
        now = float(self.step_count) if self.budget_seconds is None else self.spent
        self.points = [point for point in self.points if point > now] or [float("inf")]
        self._start_clock()

    def _look(self) -> None:
        self.looked_at = self.step_count
        self.look(self)

    def _start_clock(self) -> None:
        self._since = time.perf_counter()

    def _stop_clock(self) -> None:
        """Add what has passed, once the device has done it."""
        if self._since is None:
            return
        if self.built.device is not None and self.built.device.type == "cuda":
            torch.cuda.synchronize(self.built.device)
        self.spent += time.perf_counter() - self._since
        self._since = None

    def _validate(self, epoch: int, progress: Progress) -> None:
        """Nothing: the validation data take no part in a comparison, and would take time from the budget."""

    def _record(self, entry: dict[str, Any]) -> None:
        super()._record(entry)
        share = (
            self.step_count / self.total if self.budget_seconds is None else self.spent / self.budget_seconds
        )
        self.told(min(1.0, share), entry)

    def refuse_nonfinite(self, loss: float, random_state: Tensor | None = None) -> None:
        try:
            super().refuse_nonfinite(loss, random_state)
        except RunError as error:
            raise Diverged(str(error)) from None

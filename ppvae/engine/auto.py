"""The step that chooses for itself: eager until a compiled graph pays, and in one line which and why.

The choice falls once, after `WATCHED` steps, so that a run takes one of two ways and no other. It rests on
what is measured: how long an eager step takes, and what this machine remembers of compiling the same graph.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ppvae.engine import costs
from ppvae.engine.eager import EagerStep
from ppvae.engine.graph import GraphStep
from ppvae.engine.rewriting import spared

WATCHED = 20
"""Steps before the choice, and between it and the look back; the first three of them warm up."""


class AutoStep(GraphStep):
    """`GraphStep` where it pays, else `EagerStep`. `left` is the number of steps that are still to run."""

    mode = "auto"
    left: int | None = None

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.capture = self.built.device is not None and self.built.device.type == "cuda"
        self.chosen: str | None = None
        """`eager` or `graph`; None before the choice."""
        self.because = ""
        self._times: list[float] = []
        self._eager = 0.0
        self._open: str | None = None
        """The key of the graph whose first steps are being timed."""

    def choose(self, mode: str, because: str) -> None:
        """Settle it; `because` is one line."""
        self.chosen, self.because = mode, because
        self._times = []

    def state(self) -> dict[str, Any]:
        """The choice: a run that goes on must not choose again."""
        return {} if self.chosen is None else {"chosen": self.chosen, "because": self.because}

    def restore(self, state: dict[str, Any]) -> None:
        if state.get("chosen") in ("eager", "graph"):
            self.choose(state["chosen"], str(state.get("because", "")))

    @property
    def account(self) -> str | None:
        """Which engine runs, and why."""
        return None if self.chosen is None else f"engine: {self.chosen}, {self.because}"

    def __call__(self, given: Any, knobs: Mapping[str, Tensor], lr_factor: float = 1.0) -> dict[str, Tensor]:
        if self.chosen is None and len(self._times) == WATCHED:
            self._choose(given, knobs)
        if self.chosen == "eager":
            return EagerStep.__call__(self, given, knobs, lr_factor)
        if self.chosen == "graph" and self._open is None:
            return super().__call__(given, knobs, lr_factor)
        started = self._now()
        step = EagerStep if self.chosen is None else GraphStep
        scalars = step.__call__(self, given, knobs, lr_factor)
        self._times.append(self._now() - started)
        if self.chosen == "graph" and len(self._times) == WATCHED:
            self._look_back()
        return scalars

    def _now(self) -> float:
        """The clock, with nothing left to do on the device: only while the choice is open."""
        if self.built.device is not None and self.built.device.type == "cuda":
            torch.cuda.synchronize(self.built.device)
        return time.perf_counter()

    def _choose(self, given: Any, knobs: Mapping[str, Tensor]) -> None:
        self._eager = median(self._times[3:])
        left = 0 if self.left is None else max(0, self.left - WATCHED)
        todo = left * self._eager
        said = f"{left:,} steps to go take about {todo:.0f} s"
        hoped = costs.SAVES_RECORDED if self.capture else costs.SAVES
        if todo * hoped < costs.TRACING:
            self.choose("eager", f"{said}, too few to compile for")
            return
        traced = self.traced(given, knobs)
        if traced is None:
            self.choose("eager", f"there is no graph: {self.reason}")
            return
        key = self.key_of(traced, given, knobs)
        known = costs.recall(key)
        price = (
            costs.first_compilation(len(traced.flat.graph.graph.nodes)) if known is None else known.compiling
        )
        share = None if known is None else known.saves
        if share is None:
            share = hoped + spared(traced.flat.graph) / self._eager
        weighed = (
            f"{said}, a graph saves about {max(0.0, todo * share):.0f} s and takes {price:.0f} s to compile"
        )
        if todo * share < price:
            self.choose("eager", weighed)
            return
        if not self.compiled(traced, given, knobs):
            self.choose("eager", f"there is no graph: {self.reason}")
            return
        self.choose("graph", weighed)
        self._open = key

    def _look_back(self) -> None:
        """Remember what it cost and saves; go back if it saves nothing."""
        assert self._open is not None
        graph = median(self._times[3:])
        costs.remember_steps(self._open, self._eager, graph)
        self._open = None
        share = graph / self._eager
        if share > 1.0:
            self.settle()
            self.choose("eager", f"the compiled step took {share:.2f} of the eager one's time")
        else:
            self.because += f"; a step takes {share:.2f} of the eager one's time"

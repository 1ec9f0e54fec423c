"""The step that several processes take together, each on its share of the batch.

    v_r = [B_r g_r, B_r (b_r' - b), B_r s_r, B_r, B_r f_r]                                     (in nats)
    g = sum_r B_r g_r / sum_r B_r,  and so for b' - b and s

Rank r has B_r rows, its gradients g_r and what it logs, s_r, are means over them; b are the buffers before
the step, b_r' after it, f_r is 1 where its loss or a gradient is not finite. One all-reduce adds the vectors.
g is then the gradient of the mean over the whole batch, however unevenly that is shared, and every rank takes
the same step of the same optimizers. Where any f_r is 1, none moves anything.

Running figures, such as BatchNorm's, become their mean over the ranks by rows, as if one rank had seen all
data; whole numbers, which count batches, move alike everywhere. What an estimator or a BatchNorm makes of the
batch as a whole (`mmd`'s pairs, the floor of `free_bits`, the mean that normalizes) it makes of its share.
Each rank draws its global latents for itself: their terms, divided by N, enter with the weight B_r / B, which
add up to one, so that they count once, at the mean of as many draws as there are ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.engine.auto import AutoStep
from ppvae.engine.eager import EagerStep, Read, as_given
from ppvae.engine.graph import GraphStep
from ppvae.engine.ranks import Ranks, here
from ppvae.engine.updates import Found, Updates
from ppvae.errors import RunError
from ppvae.estimators.base import Estimator


class SharedUpdates(Updates):
    """The same step on every rank, by what all of them found."""

    alone = False

    def __init__(self, built: Built, estimator: Estimator, config: TrainConfig, ranks: Ranks):
        super().__init__(built, estimator, config)
        self.ranks = ranks
        self.parameters = [parameter for members in self.groups.values() for parameter in members]
        self.buffers = [b for m in (built, estimator) for b in m.buffers() if b.is_floating_point()]
        self.own_finite = torch.ones((), dtype=torch.bool)
        self._rows = 1
        self._before: list[Tensor] = []
        self._names: tuple[str, ...] = ()
        self._reached: list[nn.Parameter] = []

    def begin(self, rows: int) -> None:
        """A step over so many rows of this rank's begins."""
        self._rows, self._before = rows, [buffer.clone() for buffer in self.buffers]

    def take(
        self, scalars: dict[str, Tensor], found: Found, factor: float = 1.0
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The step of all ranks: (the means of what is logged, whether all was finite everywhere)."""
        self._agree(scalars, found)
        own = {id(parameter): gradient for parameter, gradient in found}
        gradients = [own[id(p)] if id(p) in own else torch.zeros_like(p) for p in self._reached]
        moves = [after - before for after, before in zip(self.buffers, self._before, strict=True)]
        self.own_finite = self.finite(scalars["loss"], [gradient for _, gradient in found])
        parts = [*gradients, *moves, *scalars.values()]
        ends = [torch.ones_like(self.own_finite, dtype=torch.float32), ~self.own_finite]
        sums = self.ranks.add(torch.cat([part.flatten() for part in [*parts, *ends]]).mul_(self._rows))
        means = sums.div_(sums[-2].clone())
        taken = [
            mean.view(part.shape).to(part.dtype)
            for mean, part in zip(means[:-2].split([part.numel() for part in parts]), parts, strict=True)
        ]
        size, scalar = sum(gradient.numel() for gradient in gradients), len(parts) - len(scalars)
        finite = (means[-1] == 0) & means[:size].sum().isfinite()
        self._move(taken[len(gradients) : scalar], finite)
        self.apply(list(zip(self._reached, taken[: len(gradients)], strict=True)), finite, factor)
        return dict(zip(scalars, taken[scalar:], strict=True)), finite

    @torch.no_grad()
    def _move(self, moves: list[Tensor], finite: Tensor) -> None:
        for buffer, before, move in zip(self.buffers, self._before, moves, strict=True):
            buffer.copy_(torch.where(finite, before + move, before))

    def _agree(self, scalars: Mapping[str, Tensor], found: Found) -> None:
        """In the first step: what the vector holds. A parameter that any rank reaches has its place in it.

        Raises:
            RunError: the ranks log other things, or a later step holds what the first did not.
        """
        if not self._names:
            index = {id(parameter): i for i, parameter in enumerate(self.parameters)}
            reached = self.ranks.gathered(sorted(index[id(parameter)] for parameter, _ in found))
            self._reached = [self.parameters[i] for i in sorted({i for each in reached for i in each})]
            self.ranks.refuse_others({"list of what is logged": tuple(scalars)})
            self._names = tuple(scalars)
        known = {id(parameter) for parameter in self._reached}
        if tuple(scalars) != self._names or not {id(parameter) for parameter, _ in found} <= known:
            raise RunError(
                "what the loss reaches or logs has changed since the first step, and the ranks add up what "
                "that one had: train on one process"
            )


def rows_of(given: Any) -> int:
    """The rows of what a step is given, indices or a batch; a model without data is one row."""
    if isinstance(given, Tensor):
        return len(given)
    return next((len(value) for value in given.values()), 1)


class SharedStep(EagerStep):
    """`EagerStep` on this rank's share of the batch, and the step that all ranks take together."""

    updates: SharedUpdates

    def __init__(
        self,
        built: Built,
        estimator: Estimator,
        config: TrainConfig,
        read: Read = as_given,
        **options: Any,
    ):
        super().__init__(built, estimator, config, read, **options)
        self.ranks = here()
        self.updates = SharedUpdates(built, estimator, config, self.ranks)

    @property
    def own_finite(self) -> Tensor:
        """Whether the last loss and gradients of this rank were finite, on the device."""
        return self.updates.own_finite

    def __call__(self, given: Any, knobs: Mapping[str, Tensor], lr_factor: float = 1.0) -> dict[str, Tensor]:
        self.updates.begin(rows_of(given))
        return super().__call__(given, knobs, lr_factor)


class SharedGraphStep(SharedStep, GraphStep):
    """Loss and gradients of the share as a flat graph, compiled; then the step that all take together. A rank
    that has no graph runs eagerly: what it adds is the same."""


class SharedAutoStep(SharedStep, AutoStep):
    """`AutoStep` whose choices are rank 0's: all run eagerly, or all compiled."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.capture = False  # the all-reduce would have to be recorded, too

    def _choose(self, given: Any, knobs: Mapping[str, Tensor]) -> None:
        if self.ranks.first:
            super()._choose(given, knobs)
        mode, because = self.ranks.from_first(lambda: (self.chosen, self.because))
        ready = mode != "graph" or self.ranks.first or self._compile(given, knobs)
        failed = [rank for rank, well in enumerate(self.ranks.gathered(ready)) if not well]
        if failed:
            mode, because = "eager", f"rank {failed[0]} has no graph"
        self.choose(str(mode), because)
        self._open = None if mode == "eager" else self._open or "rank 0 has the key"

    def _compile(self, given: Any, knobs: Mapping[str, Tensor]) -> bool:
        traced = self.traced(given, knobs)
        return traced is not None and self.compiled(traced, given, knobs)

    def _look_back(self) -> None:
        if self.ranks.first:
            super()._look_back()
        self._open = None
        mode, because = self.ranks.from_first(lambda: (self.chosen, self.because))
        if mode == "eager":
            self.settle()
        self.choose(str(mode), because)


SHARED_STEPS: dict[str, type[SharedStep]] = {
    "auto": SharedAutoStep,
    "eager": SharedStep,
    "graph": SharedGraphStep,
}
"""The modes of `--engine` on several ranks."""

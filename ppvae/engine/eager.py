"""The step in plain eager torch, to debug in, and to hold all other modes against.

Nothing in here asks the device for a number: what is logged stays on the device until somebody reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.engine.memory import keep_freed_memory
from ppvae.engine.precision import nets_in, refuse_precision
from ppvae.engine.updates import Found, Updates
from ppvae.estimators.base import Estimator
from ppvae.estimators.gradients import group_gradients

Batch = Mapping[str, Tensor]
Differentiate = Callable[[Any, Mapping[str, Tensor]], tuple[dict[str, Tensor], Found]]
"""From what a step is given, and the knobs, to what is logged and the gradients."""
Read = Callable[[Any], Batch]
"""From what a step is given, such as the indices of the data, to the batch: part of the step."""


def as_given(batch: Batch) -> Batch:
    """The step is given the batch itself."""
    return batch


@torch.no_grad()
def put_back(before: list[tuple[Tensor, Tensor]], finite: Tensor) -> None:
    """Buffers as they were before a step that is not finite: one NaN in a running mean would stay there."""
    for buffer, value in before:
        buffer.copy_(torch.where(finite, buffer, value))


class EagerStep:
    """score -> objective -> gradients -> optimizers; the first batch runs with Pyro's validation on."""

    mode = "eager"
    left: int | None = None
    """Steps that are still to run, where that is known."""
    account: str | None = None
    """Which engine runs, and why, where there was something to choose."""

    def __init__(self, built: Built, estimator: Estimator, config: TrainConfig, read: Read = as_given):
        self.built, self.estimator, self.config, self.read = built, estimator, config, read
        refuse_precision(config.precision, built.device, built.dtype)
        keep_freed_memory()
        self.updates = Updates(built, estimator, config)
        self.validated = False
        self.finite = torch.ones((), dtype=torch.bool)
        """Whether the last step's loss and gradients were finite, on the device; if not, nothing moved."""

    def differentiate(self, given: Any, knobs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Found]:
        """What is logged, scalars on the device: loss, elbo, rate, ...; and the gradients."""
        built, estimator = self.built, self.estimator
        with nets_in(self.config.precision, built.device, built, estimator):
            objective = estimator.estimate(built, self.read(given), knobs)
            found = group_gradients(objective, built, estimator)
        losses = {f"loss/{name}": loss.detach() for name, loss in objective.losses.items()}
        loss = torch.as_tensor(sum(losses.values()))
        return {"loss": loss, **objective.metrics, **(losses if len(losses) > 1 else {})}, found

    def buffers(self) -> dict[str, Tensor]:
        """What a step may write to beside parameters: running means and such, by name."""
        own = {f"estimator.{name}": value for name, value in self.estimator.named_buffers()}
        return {**dict(self.built.named_buffers()), **own}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By parameter group, with their states as they stand."""
        return self.updates.optimizers

    def __call__(self, given: Any, knobs: Mapping[str, Tensor], lr_factor: float = 1.0) -> dict[str, Tensor]:
        """One step of every optimizer; returns scalars on the device: loss, elbo, rate, distortion, ..."""
        before = [(buffer, buffer.clone()) for buffer in self.buffers().values()]
        with pyro.validation_enabled(not self.validated):
            scalars, found = self.differentiate(given, knobs)
        self.validated = True
        scalars, self.finite = self.updates.take(scalars, found, lr_factor)
        put_back(before, self.finite)
        return scalars

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on in the same mode, as JSON has it."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on as `state` says."""

"""From gradients to parameters: one optimizer a group, and nothing moves in a step that is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.errors import PairError, UsageError
from ppvae.estimators.base import Estimator

Found = list[tuple[nn.Parameter, Tensor]]
"""What is differentiated by which gradient, as `group_gradients` gives it."""


def make_optimizer(
    name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A torch optimizer by name; fused where torch has that: one kernel, which reads no step count back and
    skips by a flag on the device."""
    options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    if name in ("adam", "adamw"):
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](parameters, fused=True, **options)
    if name == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, fused=True, **options)
    return {"adamax": torch.optim.Adamax, "rmsprop": torch.optim.RMSprop}[name](parameters, **options)


def all_finite(values: Iterable[Tensor]) -> Tensor:
    """Whether all entries are finite, on their device. A sum is NaN or infinite where an entry is; it is
    read once, where a maximum of absolute values takes 40 times as long."""
    return torch.stack([value.sum() for value in values]).sum().isfinite()


class Updates:
    """The optimizers of a training, one a parameter group, and the step that they take together."""

    alone = True
    """Whether a gradient is final as it is found, so that the optimizers may be part of a graph."""

    def __init__(self, built: Built, estimator: Estimator, config: TrainConfig):
        self.config = config
        self.groups = {name: list(members.values()) for name, members in built.groups().items()}
        own = [p for p in estimator.parameters() if p.requires_grad]
        if own:
            self.groups["estimator"] = own
        if not self.groups:
            raise PairError("the pair has no trainable parameter: give the model or the guide some")
        for name in config.lr_groups:
            if name not in self.groups:
                raise UsageError(f"lr_groups names {name!r}, but the groups are {', '.join(self.groups)}")
        self.optimizers = {
            name: make_optimizer(config.optimizer, members, self.rate(name), config.weight_decay)
            for name, members in self.groups.items()
        }

    def rate(self, group: str, factor: float = 1.0) -> float:
        """The learning rate of a group, where the schedule stands at `factor`."""
        return self.config.lr_groups.get(group, self.config.lr) * factor

    def finite(self, loss: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Whether the loss and all gradients are finite, on the device."""
        return all_finite([loss, *gradients])

    def take(
        self, scalars: dict[str, Tensor], found: Found, factor: float = 1.0
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step by these gradients: (what is logged of it, whether it was finite)."""
        finite = self.finite(scalars["loss"], [gradient for _, gradient in found])
        self.apply(found, finite, factor)
        return scalars, finite

    def apply(self, found: Found, finite: Tensor, factor: float = 1.0) -> None:
        """One step of every optimizer, where `finite`; else parameters and moments stay as they are."""
        for parameter, gradient in found:
            # The fused optimizers go through the memory of both, whatever their strides are.
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        bad = 1.0 - finite.to(torch.float32)
        for name, optimizer in self.optimizers.items():
            if self.config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.groups[name], self.config.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = self.rate(name, factor)
            if optimizer.defaults.get("fused"):
                optimizer.found_inf = bad  # type: ignore[attr-defined]
                optimizer.step()
            elif bool(finite):  # torch has no fused Adamax or RMSprop: these two wait for the device
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)

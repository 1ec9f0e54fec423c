"""An estimator bound to a model and a guide: a module whose call on a batch is the loss."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.build import Built
from ppvae.estimators.base import Estimator, Objective
from ppvae.pair import Pair


class Loss(nn.Module):
    """`Loss(estimator, built)(batch)` or `Loss(estimator, model, guide)(x)`: the loss in nats per datum.

    Its gradient is the estimator's for every parameter, also where several optimizer groups have losses of
    their own.
    """

    def __init__(self, estimator: Estimator, model: Any, guide: Any = None, **pair: Any):
        super().__init__()
        self.estimator = estimator
        if not isinstance(model, Built):
            described = Pair(model=type(model), guide=type(guide), **pair)
            model = Built(described, model, guide, {}, None)
        self.built = model

    def forward(self, *args: Any, **batch: Any) -> Tensor:
        if len(args) == 1 and isinstance(args[0], Mapping):
            batch = {**args[0], **batch}
        elif args:
            model = self.built.model
            names = list(
                inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
            )
            batch = {**dict(zip(names, args, strict=False)), **batch}
        objective = self.estimator.estimate(self.built, batch)
        if set(objective.losses) == {"all"}:
            return objective.losses["all"]
        gradients = group_gradients(objective, self.built, self.estimator)
        losses = objective.losses
        value = losses["all"] if "all" in losses else sum(loss.detach() for loss in losses.values())
        return with_gradients(value, gradients)  # type: ignore[arg-type]


def group_gradients(
    objective: Objective, built: Built, estimator: nn.Module | None = None
) -> list[tuple[nn.Parameter, Tensor]]:
    """The gradient of each group's loss with respect to that group's parameters only.

    `all` serves every group without a loss of its own, a pair's further groups excepted.
    """
    groups = built.groups()
    own = (
        {f"estimator.{n}": p for n, p in estimator.named_parameters() if p.requires_grad} if estimator else {}
    )
    if own:
        groups["estimator"] = own
    losses = objective.losses
    served = {g: g for g in groups if g in losses}
    if "all" in losses:
        served.update({g: "all" for g in groups if g not in losses and g not in built.pair.groups})
    wanted: dict[str, list[nn.Parameter]] = {}
    for group, loss in served.items():
        wanted.setdefault(loss, []).extend(groups[group].values())
    found = []
    for i, (loss, parameters) in enumerate(wanted.items()):
        grads = gradients(losses[loss], parameters, retain=i < len(wanted) - 1)
        found += [(p, g) for p, g in zip(parameters, grads, strict=True) if g is not None]
    return found


def gradients(loss: Tensor, parameters: Iterable[nn.Parameter], retain: bool = False) -> list[Tensor | None]:
    """d loss / d parameter; None for a parameter that the loss does not reach."""
    parameters = list(parameters)
    if not loss.requires_grad:
        return [None] * len(parameters)
    return list(torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True))


def with_gradients(value: Tensor, gradients: Iterable[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """A scalar of the given value whose backward pass yields the given gradients."""
    surrogate = sum(((p * g.detach()).sum() for p, g in gradients), value.new_zeros(()))
    return value.detach() + surrogate - surrogate.detach()

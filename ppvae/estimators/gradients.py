"""From the losses of an objective to the gradient of every parameter."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ppvae.built import Built
from ppvae.errors import EstimatorError, nearest
from ppvae.estimators.objective import Objective


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
    for name in losses:
        if name not in {*groups, "all", "estimator"}:
            raise EstimatorError(
                f"the objective has a loss for {name!r}, which is no optimizer group"
                f"{nearest(name, [*groups, 'all']) or '.'} There are: {', '.join([*groups, 'all'])}"
            )
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
    if torch.is_grad_enabled() and not found and any(wanted.values()):
        raise EstimatorError(
            "no loss of the objective reaches a parameter, so that nothing would be trained: take the "
            ".detach() or torch.no_grad() out of what is returned as a loss"
        )
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

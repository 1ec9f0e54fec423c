"""Adam as a few operations on tensors, for a compiler to fuse: per tensor one pass over memory.

    m <- m + (1 - b1) (g - m)             v <- v + (1 - b2) (g^2 - v)            t <- t + 1
    p <- p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)

Reference: Kingma & Ba (2015), arXiv:1412.6980, Algorithm 1. AdamW's decoupled decay p <- (1 - lr decay) p:
Loshchilov & Hutter (2019), arXiv:1711.05101.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Moments:
    """What a torch Adam keeps of some parameters: the tensors themselves, and their common step count."""

    first: list[Tensor]
    second: list[Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.first, *self.second]


class Clock:
    """How often an Adam has stepped, and what follows from it; all on the device, which is asked nothing."""

    def __init__(self, options: dict[str, Any], count: float, device: torch.device):
        double: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.count = torch.tensor(count, **double)
        self.betas = torch.tensor(options["betas"], **double)
        self.powers = torch.tensor([-1.0, -0.5], **double)

    def factors(self, rate: float | Tensor, dtype: torch.dtype) -> Tensor:
        """(lr / (1 - b1^t), 1 / sqrt(1 - b2^t)) of the step to come: t is the count of steps done, plus 1.
        Inside the graph a compiler would work them out anew for every parameter."""
        found = (1.0 - self.betas ** (self.count + 1.0)) ** self.powers
        found[0] *= rate
        return found.to(dtype)


def moments_of(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]
) -> tuple[Moments, Clock] | None:
    """The moments of an optimizer that is a plain Adam or AdamW and has stepped all of them equally often;
    else None."""
    options = optimizer.defaults
    plain = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
    if not plain or options["amsgrad"] or options["maximize"]:
        return None
    states: list[dict[str, Any]] = [optimizer.state.get(parameter, {}) for parameter in parameters]
    if not all("step" in state for state in states):
        return None
    counts = {float(state["step"]) for state in states}
    if len(counts) > 1:
        return None
    clock = Clock(options, counts.pop(), parameters[0].device)
    return Moments([s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]), clock


def advance(
    options: dict[str, Any],
    parameters: list[Tensor],
    gradients: list[Tensor],
    moments: Moments,
    factors: Tensor,
    rate: Tensor,
    finite: Tensor,
) -> None:
    """One step in place, where `finite`; else nothing moves.

    Args:
        options: the optimizer's own: betas, eps, weight_decay, decoupled_weight_decay.
        factors: those of a `Clock`, (2,).
        rate: the learning rate, of no dimension.
    """
    beta1, beta2 = options["betas"]
    decay, decoupled = options["weight_decay"], options.get("decoupled_weight_decay", False)
    size, spread = factors.unbind()
    for p, g, m, v in zip(parameters, gradients, moments.first, moments.second, strict=True):
        new = p * (1.0 - rate * decay) if decay and decoupled else p
        g = g + decay * p if decay and not decoupled else g
        first = m + (1.0 - beta1) * (g - m)
        second = v + (1.0 - beta2) * (g * g - v)
        new = new - size * first / (second.sqrt() * spread + options["eps"])
        p.copy_(torch.where(finite, new, p))
        m.copy_(torch.where(finite, first, m))
        v.copy_(torch.where(finite, second, v))

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
    """How often an Adam has stepped, `count`, and what follows from it for the step to come, `factors` =
    (1 / (1 - b1^t), 1 / sqrt(1 - b2^t)) with t = count + 1; all on the device, which is asked nothing.

    A step reads the factors and leaves those of the next one: worked out where they are used, a compiler
    would do so anew for every parameter.
    """

    def __init__(self, options: dict[str, Any], like: Tensor):
        self.options = options
        self.count = torch.zeros((), dtype=torch.float64, device=like.device)
        self.factors = torch.zeros(2, dtype=like.dtype, device=like.device)

    @property
    def tensors(self) -> list[Tensor]:
        return [self.count, self.factors]

    @torch.no_grad()
    def set(self, count: Tensor) -> None:
        """So many steps are done."""
        tick(self.options, self.count, self.factors, count.to(self.count))


def tick(options: dict[str, Any], count: Tensor, factors: Tensor, now: Tensor) -> None:
    """Set a clock's tensors, in place, to `now` steps done."""
    beta1, beta2 = options["betas"]
    count.copy_(now)
    left = [(1.0 - beta1 ** (now + 1.0)).reciprocal(), (1.0 - beta2 ** (now + 1.0)).rsqrt()]
    factors.copy_(torch.stack(left))


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
    clock = Clock(options, states[0]["exp_avg"])
    clock.set(torch.tensor(counts.pop(), dtype=torch.float64))
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
        factors: those of the group's `Clock`, (2,).
        rate: the learning rate, of no dimension.
    """
    beta1, beta2 = options["betas"]
    decay, decoupled = options["weight_decay"], options.get("decoupled_weight_decay", False)
    size, spread = rate * factors[0], factors[1]
    for p, g, m, v in zip(parameters, gradients, moments.first, moments.second, strict=True):
        new = p * (1.0 - rate * decay) if decay and decoupled else p
        g = g + decay * p if decay and not decoupled else g
        first = m + (1.0 - beta1) * (g - m)
        second = v + (1.0 - beta2) * (g * g - v)
        new = new - size * first / (second.sqrt() * spread + options["eps"])
        p.copy_(torch.where(finite, new, p))
        m.copy_(torch.where(finite, first, m))
        v.copy_(torch.where(finite, second, v))

"""What an estimator says on average: many passes over many copies of the same few data.

Copies of a datum are independent estimates of its bound, and their mean costs one pass. Their gradients come
out averaged already, so that the spread is taken over passes: that also holds for estimators whose copies
share something, such as a baseline. A copy of the estimator does the work.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.estimators.base import Estimator
from ppvae.estimators.gradients import group_gradients
from ppvae.estimators.objective import Objective
from ppvae.oracles.subjects import Oracle

WORK = 4096
"""Draws of a pass: copies times data times particles."""


@dataclass(frozen=True)
class Estimates:
    """One row a pass."""

    bound: Tensor | None
    """(M, B), the mean over the copies."""
    gradients: dict[str, Tensor]
    """-d loss / d parameter, flat: what is climbed, as truths are; (M, size) by parameter name."""


@dataclass(frozen=True)
class Comparison:
    """Means over passes beside truths, with z as normal deviates; flat."""

    labels: list[str]
    truth: Tensor
    mean: Tensor
    z: Tensor

    def worst(self) -> int:
        """Where |z| is largest; a z that is no number is larger than all."""
        return int(self.z.abs().nan_to_num(nan=math.inf).argmax())


def prepared(estimator: Estimator, oracle: Oracle, seed: int) -> Estimator:
    """A copy of the estimator that has made what it needs for this pair."""
    made = copy.deepcopy(estimator)
    torch.manual_seed(seed)
    made.prepare(oracle.built, oracle.batch)
    return made


def estimate(
    estimator: Estimator, built: Built, batch: Mapping[str, Tensor]
) -> tuple[Objective, dict[str, Tensor]]:
    """One pass: the objective, and the climbing direction of every parameter of the pair by name."""
    objective = estimator.estimate(built, batch)
    found = {id(p): g for p, g in group_gradients(objective, built, estimator)}
    named = {name: p for name, p in built.named_parameters() if p.requires_grad}
    gradients = {n: -found[id(p)] if id(p) in found else torch.zeros_like(p) for n, p in named.items()}
    return objective, gradients


def measure(
    estimator: Estimator, oracle: Oracle, passes: int, seed: int, copies: int | None = None
) -> Estimates:
    """`passes` estimates in a row, by a fresh copy of the estimator."""
    worker = prepared(estimator, oracle, seed)
    if copies is None:
        copies = max(WORK // (oracle.rows * max(estimator.particles, 1)), 8)
    batch = oracle.copies(copies)
    bounds, gradients = [], []
    torch.manual_seed(seed)
    for _ in range(passes):
        objective, found = estimate(worker, oracle.built, batch)
        if objective.bound is not None:
            bounds.append(objective.bound.detach().reshape(copies, oracle.rows).mean(0))
        gradients.append(found)
    stacked = {name: torch.stack([g[name].flatten() for g in gradients]) for name in gradients[0]}
    return Estimates(torch.stack(bounds) if bounds else None, stacked)


def compare(labels: list[str], draws: Tensor, truth: Tensor, error: Tensor | None = None) -> Comparison:
    """Draws (M, n), one a pass, beside truths (n,) of standard error `error`."""
    mean, spread = draws.mean(0), draws.std(0) / math.sqrt(len(draws))
    return Comparison(labels, truth, mean, deviates(mean - truth, spread, error, truth, len(draws) - 1))


def deviates(difference: Tensor, spread: Tensor, error: Tensor | None, truth: Tensor, freedom: int) -> Tensor:
    """Standard normal deviates as unlikely as these differences are under Student's t (Wallace 1959).

    Where nothing varies the estimate is exact: 0 within 1e-6, infinite outside.
    """
    scale = truth.abs().clamp(min=1.0)
    total = spread if error is None else (spread**2 + error**2).sqrt()
    t = difference / total.clamp(min=1e-300)
    shrink = (8 * freedom + 1) / (8 * freedom + 3)
    z = t.sign() * shrink * (freedom * (t**2 / freedom).log1p()).sqrt()
    exact = total <= 1e-9 * scale
    off = torch.where(difference.abs() <= 1e-6 * scale, 0.0, math.inf).to(z)
    return torch.where(exact, off * difference.sign(), z)


def labels(name: str, like: Tensor) -> list[str]:
    """`name[i, j]` of every entry."""
    if like.dim() == 0:
        return [name]
    index = torch.cartesian_prod(*(torch.arange(size) for size in like.shape)).reshape(-1, like.dim())
    return [f"{name}[{', '.join(map(str, row))}]" for row in index.tolist()]

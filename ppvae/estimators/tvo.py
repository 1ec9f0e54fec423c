"""The thermodynamic variational objective."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Needs
from ppvae.estimators.functionals import thermodynamic
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import (
    log_guide,
    log_law,
    log_model,
    refuse_moving_points,
    refuse_without_score,
    surrogate_loss,
)
from ppvae.terms import Terms

SIDES, SPACINGS = ("lower", "upper"), ("even", "log")


class TVO(Estimator):
    """log p(x) = int_0^1 E_b[log w] db over the path from guide to posterior, of density proportional to
    q(z | x)^(1 - b) p(x, z)^b. E_b[log w] rises with b, so that over a partition 0 = b_0 < ... < b_P = 1

        left sum = sum_i (b_(i+1) - b_i) E_(b_i)[log w] <= log p(x) <= the same with E_(b_(i+1)): right sum.

    Each E_b is estimated from the same K draws of the guide by the weights v = softmax(b log w) per datum.
    One interval: the left sum is the ELBO, the right one E_posterior[log w], which wake-sleep lowers.

    Lower bound (side="lower"): of finitely many draws too, the left sum never exceeds the estimate of `iwae`,
    draw by draw. **side="upper" is no bound for finite K**: its estimate is never below that of `iwae`, but
    it falls short of the right sum; the guide lowers it, and the model climbs the left sum.

    Gradients need no reparameterization and serve discrete latents: with draws held fixed and the covariance
    under v of one and the same b,

        model:  E_b[d log p(x, z)] + b Cov_b(d log p(x, z), log w)
        guide:  -E_b[d log q(z | x)] + (1 - b) Cov_b(d log q(z | x), log w).

    The model's is unbiased for the mean of the estimate. The guide's is biased by O(1/K) wherever b > 0; at
    b = 0 it is without bias: there the first term has mean zero and is left out, and Cov_0 is multiplied by
    K / (K - 1). K = 1 has no covariance, and is the ELBO by the score function.

    Args:
        intervals: of the partition, P.
        spacing: "even", or "log": 0 and then P points from `first` to 1, evenly spaced in log b.
        first: the smallest point above 0 of a log-spaced partition.

    Reference: Masrani, Le & Wood (2019), arXiv:1907.00031.
    """

    needs = Needs(weights=True, leaves=True)

    def __init__(
        self,
        particles: int = 10,
        intervals: int = 4,
        spacing: str = "even",
        first: float = 0.025,
        side: str = "lower",
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, sites)
        if intervals < 1:
            raise ValueError(f"intervals={intervals}: a partition has at least one interval")
        if spacing not in SPACINGS:
            raise ValueError(f"spacing={spacing}: a partition is one of {', '.join(SPACINGS)}")
        if not 0 < first < 1:
            raise ValueError(f"first={first}: the first point lies between 0 and 1")
        if side not in SIDES:
            raise ValueError(f"side={side}: the sum is one of {', '.join(SIDES)}")
        if side == "upper" and particles == 1:
            raise ValueError("side=upper needs two draws or more, of one it is the ELBO: write particles=10")
        self.intervals, self.spacing, self.first, self.side = intervals, spacing, first, side
        unbiased = side == "lower" and (intervals == 1 or particles == 1)
        self.claims = Claims("lower" if side == "lower" else None, () if unbiased else ("guide",))

    @property
    def points(self) -> list[float]:
        """The partition, from 0 to 1."""
        if self.spacing == "even" or self.intervals == 1:
            return [i / self.intervals for i in range(self.intervals + 1)]
        exponents = [1 - i / (self.intervals - 1) for i in range(self.intervals)]
        return [0.0, *(self.first**e for e in exponents)]

    def targets(self) -> Mapping[str, Functional]:
        lower, chosen = thermodynamic(self.points), thermodynamic(self.points, self.side)
        guide = lower if self.side == "lower" else lambda log_weight: -chosen(log_weight)
        return {"bound": chosen, "model": lower, "guide": guide}

    def refuse(self, terms: Terms) -> None:
        super().refuse(terms)
        refuse_without_score(self, terms)
        refuse_moving_points(self, terms)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        log_weight = terms.log_weight.detach()
        model, law, guide = (torch.zeros_like(log_weight) for _ in range(3))
        for left, right in pairwise(self.points):
            width = right - left
            weight, centered = tilted(log_weight, left)
            model = model + width * weight * (1 + left * centered)
            if len(log_weight) == 1:
                law = law + width * log_weight
                continue
            sign, power = (1, left) if self.side == "lower" else (-1, right)
            drawn, weighed = _guide_parts(*tilted(log_weight, power), power)
            law, guide = law + sign * width * drawn, guide + sign * width * weighed
        surrogate = model * log_model(terms) + law * log_law(terms) + guide * log_guide(terms)
        value = thermodynamic(self.points, self.side)(log_weight)
        climbed = value if self.side == "lower" else -value
        return Objective(value, {"all": surrogate_loss(climbed, surrogate.sum(0).mean())})


def tilted(log_weight: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Weights that sum to one per datum, proportional to w^power, and log w less its mean under them."""
    weight = (power * log_weight).softmax(0)
    return weight, log_weight - (weight * log_weight).sum(0)


def _guide_parts(weight: Tensor, centered: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """What multiplies log q(z_k | x) as the law of the draws, and as a part of log w_k; K > 1."""
    if power == 0:
        return weight * centered * (len(weight) / (len(weight) - 1)), torch.zeros_like(weight)
    return weight * centered, -weight * (power * centered + 1)

"""The mean of several importance-weighted bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Needs, Scorer, knob
from ppvae.estimators.functionals import mean_log_mean_exp
from ppvae.estimators.objective import Objective
from ppvae.estimators.sites import enumerated
from ppvae.terms import Terms


class MIWAE(Estimator):
    """L_{M,K}(x) = E (1/M) sum_m log (1/K) sum_k w_mk: M = `groups` bounds of K = `particles` draws each, so
    M K draws for each datum.

    Lower bound: in the mean that of `iwae` with K draws, at 1/M of the variance; unbiased, value and
    gradient. At a fixed budget M K, fewer draws in a group give a looser bound and a guide's gradient of
    higher signal-to-noise ratio. M = 1 is `iwae`, K = 1 the ELBO of M draws.

    Knob: `beta` weighs the rate inside the weights that are optimized; the reported bound has beta = 1.

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh (2018), arXiv:1802.04537.
    """

    needs = Needs(reparameterized=True, weights=True)
    claims = Claims(bound="lower")

    def __init__(
        self,
        particles: int = 8,
        groups: int = 8,
        beta: float = 1.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, sites)
        if groups < 1:
            raise ValueError(f"groups={groups}: at least one group of draws is needed")
        self.groups, self.beta = groups, beta

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), mean_log_mean_exp(self.particles))

    def score(self, scorer: Scorer, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        return scorer.score(
            batch,
            self.groups * self.particles,
            enumerated=enumerated(self.sites, scorer.enumerated),
            draw=self.drawing(knobs),
            leaves=self.needs.leaves,
        )

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        functional = mean_log_mean_exp(self.particles)
        optimized = functional(log_likelihood + beta * log_ratio)
        return Objective(functional((log_likelihood + log_ratio).detach()), {"all": -optimized.mean()})

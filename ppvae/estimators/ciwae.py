"""The ELBO and the importance-weighted bound, mixed."""

from __future__ import annotations

from collections.abc import Mapping

from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Needs, knob
from ppvae.estimators.functionals import mixed
from ppvae.estimators.objective import Objective
from ppvae.terms import Terms


class CIWAE(Estimator):
    """share (1/K) sum_k E log w_k + (1 - share) E log (1/K) sum_k w_k, of the same K draws.

    Lower bound, between the ELBO (share = 1) and that of `iwae` (share = 0); unbiased, value and gradient.
    The ELBO's part keeps up the signal of the guide's gradient where the other's falls as 1/sqrt(K).

    Args:
        share: the ELBO's part in [0, 1], the paper's beta.

    Knob: `beta` weighs the rate in what is optimized; the reported bound has beta = 1.

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh (2018), arXiv:1802.04537.
    """

    needs = Needs(reparameterized=True, weights=True)
    claims = Claims(bound="lower")

    def __init__(
        self,
        particles: int = 64,
        share: float = 0.05,
        beta: float = 1.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, sites)
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: the ELBO's share lies between 0 and 1")
        self.share, self.beta = share, beta

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), mixed(self.share))

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        functional = mixed(self.share)
        optimized = functional(log_likelihood + beta * log_ratio)
        return Objective(functional((log_likelihood + log_ratio).detach()), {"all": -optimized.mean()})

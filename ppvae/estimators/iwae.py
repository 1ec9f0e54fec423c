"""The importance-weighted bound."""

from __future__ import annotations

from collections.abc import Mapping

from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Needs, knob
from ppvae.estimators.functionals import log_mean_exp
from ppvae.estimators.objective import Objective
from ppvae.terms import Terms


class IWAE(Estimator):
    """L_K(x) = E log (1/K) sum_k w_k, w_k = p(x, z_k) / q(z_k | x), z_k ~ q(z | x).

    Lower bound, tighter in expectation as K grows, log p(x) - L_K ~ Var(w) / (2 K p(x)^2). The estimate of
    L_K and its gradient is unbiased; the signal-to-noise ratio of the guide's gradient falls as 1/sqrt(K)
    (Rainforth et al. 2018). Weights are per datum. K = 1 is the ELBO.

    Knob: `beta` weighs the rate inside the weights that are optimized; the reported bound has beta = 1.

    Reference: Burda, Grosse & Salakhutdinov (2016), arXiv:1509.00519. Equals `pyro.infer.RenyiELBO(alpha=0)`
    on an unscaled model, per datum.
    """

    needs = Needs(reparameterized=True, weights=True)
    claims = Claims(bound="lower")

    def __init__(self, particles: int = 5, beta: float = 1.0, sites: Mapping[str, str] | None = None):
        super().__init__(particles, sites)
        self.beta = beta

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), log_mean_exp)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        optimized = log_mean_exp(log_likelihood + beta * log_ratio)
        bound = log_mean_exp((log_likelihood + log_ratio).detach())
        return Objective(bound, {"all": -optimized.mean()})

"""The importance-weighted bound with single-draw path derivatives, weighed: simple and biased."""

from __future__ import annotations

from collections.abc import Mapping

from ppvae.estimators.base import Claims, Functional, Knobs, knob
from ppvae.estimators.functionals import log_mean_exp
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import PathDerivative, path_loss
from ppvae.terms import Terms


class IWAESTL(PathDerivative):
    """L_K(x) = E log (1/K) sum_k w_k as in `iwae`; with v_k = w_k / sum_j w_j, the guide's gradient is

        sum_k v_k (d log w_k / d z_k) d z_k / d phi,    the model's    sum_k v_k d log p(x, z_k) / d theta.

    Lower bound; value and the model's gradient are unbiased. **The guide's gradient is biased for K > 1**:
    it leaves out sum_k v_k grad log q(z_k | x), whose mean vanishes only for K = 1, where this is `stl`.
    As K grows the true gradient falls as 1/K and this one does not: it tends to the gradient of
    -KL(p(z | x), q), which is another objective. Use `dreg`, which is unbiased and costs the same.

    Knob: `beta` weighs the rate inside the weights that are optimized; the reported bound has beta = 1.

    Reference: Roeder, Wu & Duvenaud (2017), arXiv:1703.09194, section 4; its bias: Tucker et al. (2019),
    arXiv:1810.04152.
    """

    def __init__(self, particles: int = 5, beta: float = 1.0, sites: Mapping[str, str] | None = None):
        super().__init__(particles, beta, sites)
        self.claims = Claims(bound="lower", biased=("guide",) if particles > 1 else ())

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), log_mean_exp)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        log_weight = log_likelihood + beta * log_ratio
        weight = log_weight.detach().softmax(0)
        loss = path_loss(log_mean_exp(log_weight), terms, log_weight, weight, weight, beta)
        return Objective(log_mean_exp((log_likelihood + log_ratio).detach()), {"all": loss})

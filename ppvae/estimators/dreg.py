"""The importance-weighted bound with doubly reparameterized gradients."""

from __future__ import annotations

from collections.abc import Mapping

from ppvae.estimators.base import Functional, Knobs, knob
from ppvae.estimators.functionals import log_mean_exp
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import PathDerivative, path_loss
from ppvae.terms import Terms


class DReG(PathDerivative):
    """L_K(x) = E log (1/K) sum_k w_k as in `iwae`; with v_k = w_k / sum_j w_j, the guide's gradient is

        sum_k v_k^2 (d log w_k / d z_k) d z_k / d phi,    the model's    sum_k v_k d log p(x, z_k) / d theta.

    Lower bound. Value and both gradients are unbiased: the mean of v_k grad log q(z_k | x), which iwae's
    gradient subtracts, is that of (v_k - v_k^2) along the path. The guide's signal-to-noise ratio grows as
    sqrt(K) where that of `iwae` falls as 1/sqrt(K), and its variance is zero at the exact posterior. K = 1 is
    `stl`. Several stochastic layers are chained; the guide runs once.

    Knob: `beta` weighs the rate inside the weights that are optimized (the guide's weights are then
    (1 - beta) v + beta v^2); the reported bound has beta = 1.

    A mask on a latent must mask what depends on it, too; where it does not, the first batch is refused.

    Reference: Tucker, Lawson, Gu & Maddison (2019), arXiv:1810.04152.
    """

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), log_mean_exp)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        log_weight = log_likelihood + beta * log_ratio
        weight = log_weight.detach().softmax(0)
        along = (1 - beta) * weight + beta * weight**2
        loss = path_loss(log_mean_exp(log_weight), terms, log_weight, weight, along, beta)
        return Objective(log_mean_exp((log_likelihood + log_ratio).detach()), {"all": loss})

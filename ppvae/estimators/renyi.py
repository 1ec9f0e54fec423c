"""The variational Renyi bound."""

from __future__ import annotations

from collections.abc import Mapping

from ppvae.estimators import functionals
from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Needs
from ppvae.estimators.objective import Objective
from ppvae.terms import Terms


class Renyi(Estimator):
    """L_{alpha,K}(x) = E 1/(1 - alpha) log (1/K) sum_k w_k^(1 - alpha), an estimate from K draws of

        L_alpha(x) = 1/(1 - alpha) log E_q[w^(1 - alpha)] = log p(x) - D_alpha(q(z | x), p(z | x)).

    alpha = 1 is the ELBO (exactly, by its limit), alpha = 0 that of `iwae`. Value and gradient are unbiased
    for L_{alpha,K}, of which the following is true at every K:

        alpha = 1         L_{alpha,K} is the ELBO,
        0 <= alpha < 1    lower bound, rises with K to L_alpha <= log p(x) from the ELBO,
        alpha > 1         lower bound, falls with K from the ELBO to L_alpha, which may be minus infinity,
        alpha < 0         **no bound**: rises with K from the ELBO to L_alpha >= log p(x), past the evidence.

    For alpha < 0 it is never below that of `iwae` at the same K, and L_alpha alone, K without end, is an
    upper bound. It is climbed all the same, as in the paper; `cubo` is the upper bound that is lowered.

    Args:
        alpha: the order; a scale inside the weights would change it, and is refused.

    Reference: Li & Turner (2016), arXiv:1602.02311. Equals `pyro.infer.RenyiELBO(alpha)` on an unscaled
    model, per datum.
    """

    needs = Needs(reparameterized=True, weights=True)

    def __init__(self, particles: int = 5, alpha: float = 0.5, sites: Mapping[str, str] | None = None):
        super().__init__(particles, sites)
        self.alpha = alpha
        self.claims = Claims(bound="lower" if alpha >= 0 else None)

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), functionals.renyi(self.alpha))

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        value = functionals.renyi(self.alpha)(terms.log_weight)
        return Objective(value.detach(), {"all": -value.mean()})

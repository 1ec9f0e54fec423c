"""The chi upper bound: a guide that covers the posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ppvae.estimators import functionals
from ppvae.estimators.base import Claims, Functional, Knobs
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import PathDerivative, path_loss
from ppvae.shapes import Float
from ppvae.terms import Terms

AGAINST = ("all", "others")


class CUBO(PathDerivative):
    """CUBO_n(x) = (1/n) log E_q[w^n] >= log p(x), n > 1, which the guide lowers; for n = 2 it is
    log p(x) + 1/2 log (1 + chi^2(p(z | x), q)). The guide comes to cover the posterior, tails first.

    **Of finitely many draws there is no bound.** The reported (1/n) log (1/K) sum_k w_k^n is below CUBO_n in
    the mean, rises with K to it from the ELBO at K = 1, and may lie on either side of log p(x); draw by draw
    it is never below the estimate of `iwae`. Lowered as it stands it would drive the guide away from the
    posterior at small K, so the gradient of E_q[w^n] itself is estimated, through the draws:

        d CUBO_n / d phi = -(n - 1) E_q[w^n (d log w / d z) d z / d phi] / E_q[w^n].

    Each draw is weighed by w_k^n over its mean in one of two ways:

        against="all"     over all K draws: the weights sum to one, are bounded, and the guide's gradient is
                          biased by O(1/K). (The paper divides by the largest w_k^n of the draws, which
                          turns the mean direction likewise.) K = 1 is stl times n - 1.
        against="others"  over the other K - 1 draws: of each datum, a positive multiple of the gradient above
                          without bias in its direction, but of unbounded weights. K > 1.

    Either way the guide's gradient is zero, draw by draw, at the exact posterior. The model does not follow
    an upper bound: it climbs that of `iwae` with the same draws, without bias.

    A mask on a latent must mask what depends on it, too; where it does not, the first batch is refused.

    Reference: Dieng, Tran, Ranganath, Paisley & Blei (2017), arXiv:1611.00328.
    """

    claims = Claims(biased=("guide",))

    def __init__(
        self,
        particles: int = 10,
        order: float = 2.0,
        against: str = "all",
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, sites=sites)
        if order <= 1:
            raise ValueError(f"order={order}: the chi upper bound needs an order above 1")
        if against not in AGAINST:
            raise ValueError(f"against={against}: draws are weighed against one of {', '.join(AGAINST)}")
        if against == "others" and particles == 1:
            raise ValueError("against=others needs two draws or more: write particles=10")
        self.order, self.against = order, against

    def targets(self) -> Mapping[str, Functional]:
        upper = functionals.cubo(self.order)
        return {"bound": upper, "model": functionals.log_mean_exp, "guide": lambda w: -upper(w)}

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        log_weight = terms.log_weight
        value = functionals.cubo(self.order)(log_weight.detach())
        powers = self.order * log_weight.detach()
        # A datum's own positive factor, free of the draw that it weighs, turns no direction.
        guide = powers.softmax(0) if self.against == "all" else relative_to_others(powers)
        model = log_weight.detach().softmax(0)
        return Objective(
            value, {"all": path_loss(-value, terms, log_weight, model, (self.order - 1) * guide)}
        )


def relative_to_others(log_weight: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """(1/K) w_k / mean of the others' w, K > 1."""
    particles = len(log_weight)
    others = functionals.log_sum_of_others(log_weight) - math.log(particles - 1)
    return (log_weight - others).exp() / particles

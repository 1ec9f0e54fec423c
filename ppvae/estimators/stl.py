"""The ELBO without the guide's score: sticking the landing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ppvae.errors import PairError
from ppvae.estimators.base import Functional, Knobs, Needs, knob
from ppvae.estimators.functionals import mean
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import PathDerivative, log_model, surrogate_loss
from ppvae.estimators.paths import along_paths
from ppvae.terms import Terms


class STL(PathDerivative):
    """L(x) = E_q[log p(x, z) - log q(z | x)], whose guide learns by the mean over K draws of

        (d log w_k / d z_k) d z_k / d phi.

    Lower bound; unbiased, value and gradient, for every K: what is left out, grad log q(z | x) at fixed
    draws, has mean zero. Its variance vanishes as the guide comes to the posterior, where that of `elbo` does
    not; far from it, it may be larger. Global latents enter once, divided by the number of data N.
    Not to be confused with `iwae_stl`, which weighs the draws and is biased.

    Knob: `beta` weighs the rate in what is optimized; the reported bound has beta = 1.

    Reference: Roeder, Wu & Duvenaud (2017), arXiv:1703.09194.
    """

    needs = Needs(reparameterized=True, leaves=True)

    def __init__(self, particles: int = 1, beta: float = 1.0, sites: Mapping[str, str] | None = None):
        super().__init__(particles, beta, sites)

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), mean)

    def refuse(self, terms: Terms) -> None:
        super().refuse(terms)
        if terms.expected:
            raise PairError(
                f"STL cannot take {terms.expected[0]!r}, which the guide enumerates: leave it out of the "
                "guide, so that the model sums it out, or use elbo"
            )

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        outside, outside_model = _outside(terms, beta)
        optimized = log_likelihood + beta * log_ratio
        explicit = log_model(terms, beta).mean() + outside_model.mean() / terms.num_data
        paths = along_paths(terms, optimized.mean() + outside.mean() / terms.num_data)
        bound = (log_likelihood + log_ratio).mean(0) + terms.log_global.mean() / terms.num_data
        loss = surrogate_loss(optimized.mean(0) + outside.mean() / terms.num_data, explicit + paths)
        return Objective(bound.detach(), {"all": loss})


def _outside(terms: Terms, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    """What lies outside the data plate, (K,), in nats for the whole data set: all of it, and what the model's
    parameters move."""
    ratio, prior = terms.log_global * 0, terms.log_global * 0
    for site in terms.of("global"):
        ratio = ratio + site.log_ratio
        prior = prior + (site.log_ratio if site.how == "enumerate" else site.log_p)
    return terms.log_shared + beta * ratio, terms.log_shared + beta * prior

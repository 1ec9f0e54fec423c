"""The exact guide of probabilistic PCA: q(z | x) = p(z | x) = N(M^-1 W' (x - mean), scale^2 M^-1).

Covers the one latent z. It has no parameters of its own: the model's give the posterior in closed form, so
that the ELBO of every draw equals the evidence and SVI is maximum likelihood. Costs one solve of a q x q
system.
"""

import pyro
import pyro.distributions as dist

from ppvae.models.ppca import PPCA, elbo, evidence, posterior
from ppvae.pair import Pair


class Exact:
    """q(z | x) = p(z | x), read off the model."""

    def __init__(self, model: PPCA):
        self.model = model

    def __call__(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.q(x))

    def q(self, x) -> dist.MultivariateNormal:
        """q(z | x), of batch shape (B,)."""
        return self.model.posterior(x)


PAIR = Pair(
    model=PPCA,
    guide=Exact,
    data="ppca_toy",
    train={"epochs": 200, "lr": 1e-2},
    evidence=evidence,
    posterior=posterior,
    elbo=elbo,
    latent="z: q reals, exact posterior",
    reference="Tipping & Bishop (1999), Probabilistic Principal Component Analysis",
)

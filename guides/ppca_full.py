"""A full-covariance amortized guide of probabilistic PCA: q(z | x) = N(A x + b, L L').

Covers the one latent z with a linear encoder and one covariance for all data. The posterior of this model has
exactly this form, so that at the optimum the ELBO is the evidence; before it, the gap is KL(q, posterior) in
closed form.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from ppvae.models.ppca import PPCA, elbo, evidence, posterior
from ppvae.pair import Pair


class FullCovariance(PyroModule):
    """q(z | x) = N(encoder(x), L L') with a lower triangular L, (q, q)."""

    def __init__(self, model: PPCA):
        super().__init__()
        self.event_dim = len(model.x_shape)
        self.encoder = nn.Linear(math.prod(model.x_shape), model.latent)
        self.scale_tril = PyroParam(torch.eye(model.latent), constraints.lower_cholesky)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.q(x))

    def q(self, x) -> dist.MultivariateNormal:
        """q(z | x), of batch shape (B,)."""
        loc = self.encoder(x.flatten(-self.event_dim))
        return dist.MultivariateNormal(loc, scale_tril=self.scale_tril)  # type: ignore


PAIR = Pair(
    model=PPCA,
    guide=FullCovariance,
    data="ppca_toy",
    train={"epochs": 1000, "lr": 1e-2},
    evidence=evidence,
    posterior=posterior,
    elbo=elbo,
    latent="z: q reals, full covariance",
    reference="Tipping & Bishop (1999), Probabilistic Principal Component Analysis",
)

"""A mean-field amortized guide of probabilistic PCA: q(z | x) = prod_j N(z_j; (A x + b)_j, s_j^2).

Covers the one latent z. With the posterior's precision P, the best it can do is s_j^2 = 1 / P_jj and the
posterior's mean; what is lost is KL(q, posterior) = 1/2 (sum_j log P_jj - log det P) per datum, zero only
where W'W is diagonal.
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from ppvae.models.ppca import PPCA, elbo, evidence, posterior
from ppvae.pair import Pair


class MeanField(PyroModule):
    """q(z | x) = N(encoder(x), diag(scale^2)), scale: (q,)."""

    def __init__(self, model: PPCA):
        super().__init__()
        self.event_dim = len(model.x_shape)
        self.encoder = nn.Linear(math.prod(model.x_shape), model.latent)
        self.scale = PyroParam(torch.ones(model.latent), constraints.positive)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.q(x))

    def q(self, x) -> Any:
        """q(z | x), of batch shape (B,)."""
        loc = self.encoder(x.flatten(-self.event_dim))
        return dist.Normal(loc, self.scale).to_event(1)  # type: ignore


PAIR = Pair(
    model=PPCA,
    guide=MeanField,
    data="ppca_toy",
    train={"epochs": 1000, "lr": 1e-2},
    evidence=evidence,
    posterior=posterior,
    elbo=elbo,
    latent="z: q reals, mean field",
    reference="Tipping & Bishop (1999), Probabilistic Principal Component Analysis",
)

"""The factorized guide of the noisy-or network: q(z | x) = prod_j Bernoulli(z_j; sigmoid(V x + v)_j).

Covers the one latent z, a vector of bits that are not reparameterized. Never exact: given a symptom its
causes explain each other away, and here they are independent; what is lost is KL(q, posterior), in closed
form by a sum over all z. Costs one linear map.

Reference: Jaakkola & Jordan (1999), Variational Probabilistic Inference and the QMR-DT Network, JAIR 10, for
the model; this guide is amortized, theirs is not.
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn

from ppvae.models.noisy_or import NoisyOr, elbo, evidence, posterior
from ppvae.pair import Pair


class Factorized(PyroModule):
    """q(z | x) = prod_j Bernoulli(z_j; sigmoid(encoder(x)_j))."""

    def __init__(self, model: NoisyOr):
        super().__init__()
        self.event_dim = len(model.x_shape)
        self.encoder = nn.Linear(math.prod(model.x_shape), model.latent)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.q(x))

    def q(self, x) -> Any:
        """q(z | x), of batch shape (B,)."""
        return dist.Bernoulli(logits=self.encoder(x.flatten(-self.event_dim))).to_event(1)


PAIR = Pair(
    model=NoisyOr,
    guide=Factorized,
    data="noisy_or_toy",
    discrete={"z": "score"},
    train={"epochs": 500, "lr": 1e-2, "schedule": "cosine"},
    evidence=evidence,
    posterior=posterior,
    elbo=elbo,
    latent="z: 2 bits, factorized",
    reference="Jaakkola & Jordan (1999), Variational Probabilistic Inference and the QMR-DT Network",
)

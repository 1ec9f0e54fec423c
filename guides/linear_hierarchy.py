"""A linear guide of the linear-Gaussian hierarchy, from below: q(z1 | x) q(z2 | z1), both full Gaussians.

    q(z1 | x)  = N(V x + v, L1 L1')        V: (q1, D), L1: (q1, q1) lower triangular
    q(z2 | z1) = N(U z1 + u, L2 L2')       U: (q2, q1), L2: (q2, q2) lower triangular

Covers z1 and z2, which it draws against the model's order, as inference in a hierarchy does. The posterior is
p(z1 | x) p(z2 | z1), and each factor has exactly this form: at the optimum the ELBO is the evidence, and
every draw has it as its weight. Elsewhere the gap is KL(q, posterior), in closed form.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from ppvae.models.linear_hierarchy import LinearHierarchy, elbo, evidence, posterior
from ppvae.pair import Pair


class Upward(PyroModule):
    """q(z1 | x) q(z2 | z1), linear, with one covariance each for all data."""

    def __init__(self, model: LinearHierarchy):
        super().__init__()
        middle, top = model.latent
        self.event_dim = len(model.x_shape)
        self.encoder = nn.Linear(math.prod(model.x_shape), middle)
        self.up = nn.Linear(middle, top)
        self.scale_tril = PyroParam(torch.eye(middle), constraints.lower_cholesky)
        self.up_scale_tril = PyroParam(torch.eye(top), constraints.lower_cholesky)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", self.q_z1(x))
            pyro.sample("z2", self.q_z2(z1))

    def q_z1(self, x) -> dist.MultivariateNormal:
        """q(z1 | x), of batch shape (B,)."""
        return dist.MultivariateNormal(self.encoder(x.flatten(-self.event_dim)), scale_tril=self.scale_tril)  # type: ignore

    def q_z2(self, z1) -> dist.MultivariateNormal:
        """q(z2 | z1), of z1's batch shape."""
        return dist.MultivariateNormal(self.up(z1), scale_tril=self.up_scale_tril)  # type: ignore


PAIR = Pair(
    model=LinearHierarchy,
    guide=Upward,
    data="ppca_toy",
    train={"epochs": 1000, "lr": 1e-2, "schedule": "cosine"},
    evidence=evidence,
    posterior=posterior,
    elbo=elbo,
    latent="z1, z2: 3 and 2 reals, full covariance",
    reference="Roweis & Ghahramani (1999), A Unifying Review of Linear Gaussian Models",
)

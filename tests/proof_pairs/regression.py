"""Bayesian linear regression: a global latent beside mini-batches, the inputs given, the outputs observed.

    w ~ N(0, I)                     w: (3,), once for all data
    y_b | w ~ N(x_b' w, 0.5^2)      y: (B,)

Guide: q(w) = N(loc, diag(scale^2)). The evidence of all N data is N(y; 0, 0.25 I + X X').
"""
# pyright: reportArgumentType=false

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

from ppvae.pair import Pair

SIZE, NOISE = 3, 0.5


class Regression(PyroModule):
    def forward(self, x, *, y=None, n=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(SIZE), 1.0).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("y", dist.Normal((x * w).sum(-1), NOISE), obs=y)


class MeanField(PyroModule):
    def __init__(self, model: Regression):
        super().__init__()
        self.loc = PyroParam(torch.full((SIZE,), 0.1))
        self.scale = PyroParam(torch.full((SIZE,), 0.3), constraints.positive)

    def forward(self, x, *, y=None, n=None):
        pyro.sample("w", dist.Normal(self.loc, self.scale).to_event(1))


PAIR = Pair(
    model=Regression,
    guide=MeanField,
    data=None,
    observed=("y",),
    conditions=("x",),
    latent="w: 3 reals, global",
)


def data(n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, SIZE, generator=generator, dtype=torch.get_default_dtype())
    noise = torch.randn(n, generator=generator, dtype=x.dtype)
    return {"x": x, "y": x @ torch.tensor([1.0, -0.5, 0.2], dtype=x.dtype) + NOISE * noise}


def log_evidence(batch):
    """log p(y | x) of all data together, in nats."""
    x, y = batch["x"], batch["y"]
    covariance = NOISE**2 * torch.eye(len(x), dtype=x.dtype) + x @ x.T
    return dist.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)

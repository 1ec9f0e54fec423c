"""A LowRankMultivariateNormal guide for a prior of independent Normals: other family, same event shape."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,), rank=2):
        super().__init__()
        self.z_dim, self.rank = model.z_dim, rank
        self.encoder = nn.Linear(x_shape[0], (2 + rank) * model.z_dim)

    def forward(self, x):
        loc, raw, factor = self.encoder(x).split([self.z_dim, self.z_dim, self.rank * self.z_dim], -1)
        factor = factor.unflatten(-1, (self.z_dim, self.rank))
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.LowRankMultivariateNormal(loc, factor, softplus(raw) + 1e-3))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}

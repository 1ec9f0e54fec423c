"""Two stochastic layers, inferred from the bottom up: q(bottom | x) q(top | bottom)."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), top_dim=2, bottom_dim=4):
        super().__init__()
        self.top_dim, self.bottom_dim = top_dim, bottom_dim
        self.lift = nn.Linear(top_dim, 2 * bottom_dim)
        self.decoder = nn.Sequential(nn.Linear(bottom_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(self.top_dim), 1.0).to_event(1))
            loc, raw = self.lift(top).chunk(2, -1)
            bottom = pyro.sample("bottom", dist.Normal(loc, softplus(raw)).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(bottom), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.to_bottom = nn.Linear(x_shape[0], 2 * model.bottom_dim)
        self.to_top = nn.Linear(model.bottom_dim, 2 * model.top_dim)

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            loc, raw = self.to_bottom(x).chunk(2, -1)
            bottom = pyro.sample("bottom", dist.Normal(loc, softplus(raw)).to_event(1))
            loc, raw = self.to_top(bottom).chunk(2, -1)
            pyro.sample("top", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}

"""Series come as (rows, time, features), and the encoder's GRU lacks `batch_first=True`.

It runs along the rows as if they were time, so each datum's q depends on all rows before it; shapes
fit, and stock Pyro says nothing. Fix: `batch_first=True`.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(12, 3), z_dim=4):
        super().__init__()
        self.z_dim, self.x_shape = z_dim, tuple(x_shape)
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, math.prod(x_shape)))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            loc = self.decoder(z).unflatten(-1, self.x_shape)
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(2), obs=x)


class Guide(PyroModule):  # <- here
    def __init__(self, model, x_shape=(12, 3)):
        super().__init__()
        self.rnn = nn.GRU(x_shape[-1], 16)  # <- here
        self.head = nn.Linear(16, 2 * model.z_dim)

    def forward(self, x):  # <- here
        states, _ = self.rnn(x)  # <- here
        loc, raw = self.head(states[:, -1]).chunk(2, -1)  # <- here
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 12, 3, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bz\b|guide|encoder", "row|leak|datum|other data|couple|mix|independen|batch"],
    "fix": ["row|dim|batch|statistic|constant|BatchNorm|running|alone|per datum|axis|training set|first"],
}

"""Attention weights over the features are normalized by `softmax(dim=0)`, which is over the rows.

Each datum's q depends on the batch around it; stock Pyro says nothing. Fix: `dim=-1`.
"""

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


class Guide(PyroModule):  # <- here
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.attend = nn.Linear(x_shape[0], x_shape[0])
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):  # <- here
        weights = self.attend(x).softmax(dim=0)  # <- here
        loc, raw = self.encoder(weights * x).chunk(2, -1)  # <- here
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bz\b|guide|encoder", "row|leak|datum|other data|couple|mix|independen|batch"],
    "fix": ["row|dim|batch|statistic|constant|BatchNorm|running|alone|per datum|axis|training set"],
}

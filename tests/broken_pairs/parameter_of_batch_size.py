"""The guide is not amortized: its parameters hold one row per datum of the batch at hand.

The first full batch works; any other batch size fails in stock Pyro with "Shape mismatch inside
plate('data')", and another batch of the same size is given the wrong rows. Fix: an encoder, or rows
picked by the datum's index.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import nn

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
    def __init__(self, model):
        super().__init__()
        self.loc = PyroParam(torch.zeros(64, model.z_dim))  # <- here
        self.scale = PyroParam(0.1 * torch.ones(64, model.z_dim), constraint=constraints.positive)  # <- here

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):  # <- here
            pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\b(loc|scale|z)\b", "batch|rows|64|size|shape|plate"],
    "fix": ["encoder|amortiz|index|size|rows|batch"],
}

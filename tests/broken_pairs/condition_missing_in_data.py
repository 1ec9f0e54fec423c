"""A conditional pair is given data without its condition `y`.

Stock Pyro raises a TypeError about a missing keyword from deep inside the tracing. Fix: add the field
`y` to the data, or give the data set's name for it.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):  # <- here
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.from_z = nn.Linear(z_dim, x_shape[0])
        self.from_y = nn.Linear(3, x_shape[0])

    def forward(self, x=None, *, y, n=None):  # <- here
        rows = y.shape[0] if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            loc = torch.tanh(self.from_z(z) + self.from_y(y))
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, conditions=("y",))  # <- here


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\by\b", "condition|data|field|missing"],
    "fix": ["data|field|add|provide|batch|condition"],
}

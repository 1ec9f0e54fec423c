"""The guide needs `labels`; the field is called `y`, and the model calls it so.

A TypeError about a missing keyword in stock Pyro, at the first step. Fix: name it `y` as the model
does.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import one_hot, softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.from_z = nn.Linear(z_dim, x_shape[0])
        self.from_y = nn.Linear(3, x_shape[0])

    def forward(self, x=None, *, y, n=None):
        rows = y.shape[0] if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            loc = torch.tanh(self.from_z(z) + self.from_y(y))
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):  # <- here
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0] + 3, 2 * model.z_dim)

    def forward(self, x, *, labels):  # <- here
        loc, raw = self.encoder(torch.cat([x, labels], -1)).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, conditions=("y",))


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    y = one_hot(torch.randint(3, (64,), generator=rng), 3).float()
    return {"x": torch.randn(64, 20, generator=rng), "y": y}


EXPECT = {
    "says": [r"\blabels\b", "argument|data|field|missing|parameter|requires|needs|batch"],
    "fix": [r"\by\b|rename|name|default|field|data|remove"],
}

"""Regression with targets of shape (64,) against a net's output of shape (64, 1).

The likelihood becomes a 64 x 64 table: every target is scored under every row's prediction. Without
validation, or with `max_plate_nesting=1` given, stock Pyro optimizes that without a word. Fix:
`.squeeze(-1)` on the net's output.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(5,), z_dim=2):
        super().__init__()
        self.z_dim = z_dim
        self.from_x = nn.Linear(x_shape[0], 16)
        self.from_z = nn.Linear(z_dim, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, x, *, y=None, n=None):
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            loc = self.head(torch.tanh(self.from_x(x) + self.from_z(z)))
            return pyro.sample("y", dist.Normal(loc, 0.5), obs=y)  # <- here


class Guide(PyroModule):
    def __init__(self, model, x_shape=(5,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0] + 1, 2 * model.z_dim)

    def forward(self, x, *, y):
        loc, raw = self.encoder(torch.cat([x, y.unsqueeze(-1)], -1)).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, observed=("y",), conditions=("x",))


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=rng)
    return {"x": x, "y": x[:, 0].sin() + 0.1 * torch.randn(64, generator=rng)}


EXPECT = {
    "says": [r"\by\b", "shape|broadcast|dim"],
    "fix": [r"squeeze|to_event|shape|reshape|\[\.\.\., 0\]|unsqueeze"],
}

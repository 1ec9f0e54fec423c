"""The likelihood has no `.to_event(1)`, and there happen to be as many rows as pixels.

64 rows of 64 pixels fit the data plate by accident: without validation, or with `max_plate_nesting=1`
given, everything runs; the last, smaller batch fails, and weights per datum are weights per pixel. Fix:
`.to_event(1)`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(64,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5), obs=x)  # <- here


class Guide(PyroModule):
    def __init__(self, model, x_shape=(64,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bx\b", "shape|event|dim"],
    "fix": ["to_event|event"],
}

"""The decoder concatenates the latent with the label, which knows nothing of particles.

With vectorized particles `z` is (particles, rows, 4) and `y` is (rows, 3): `torch.cat` fails with
"Tensors must have same number of dimensions". Fix: `y.expand(*z.shape[:-1], -1)` before `cat`.
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
        self.decoder = nn.Sequential(nn.Linear(z_dim + 3, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, y, n=None):
        rows = y.shape[0] if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            loc = self.decoder(torch.cat([z, y], -1))  # <- here
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0] + 3, 2 * model.z_dim)

    def forward(self, x, *, y):
        loc, raw = self.encoder(torch.cat([x, y], -1)).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, conditions=("y",))


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    y = one_hot(torch.randint(3, (64,), generator=rng), 3).float()
    return {"x": torch.randn(64, 20, generator=rng), "y": y}


EXPECT = {
    "says": ["particle|leading|vectori[sz]|outer|enclosing|(extra|additional|further|batch) dim|plate"],
    "fix": [r"leading|\.\.\.|flatten|unflatten|reshape|batch_shape|shape\[:|expand|broadcast|vectorize|dim"],
}

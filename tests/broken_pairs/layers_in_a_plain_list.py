"""The decoder's layers are kept in a plain list.

`parameters()` does not see them: no optimizer trains them, no checkpoint saves them, no `.to(device)`
moves them, and nothing complains. Fix: `nn.ModuleList`.
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
        self.layers = [nn.Linear(z_dim, 32), nn.Linear(32, x_shape[0])]  # <- here

    def forward(self, x=None, *, n=None):  # <- here
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            h = z
            for layer in self.layers:  # <- here
                h = layer(torch.tanh(h))  # <- here
            return pyro.sample("x", dist.Normal(h, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\blayers\b|Linear|weight|model", "regist|ModuleList|paramet|optimi|plain list"],
    "fix": ["ModuleList|Sequential|regist"],
}

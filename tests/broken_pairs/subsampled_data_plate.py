"""The data plate is subsampled, `size=60_000, subsample_size=rows`, as Pyro's SVI tutorial does.

Every local term is then scaled by N / rows: right for a plain ELBO, wrong inside the logsumexp of any
multi-sample bound, which then reads above the evidence. Fix: `pyro.plate("data", rows, dim=-1)`; the
library divides by N.
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
        with pyro.plate("data", 60_000, subsample_size=rows, dim=-1):  # <- here
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))  # <- here
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)  # <- here


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", 60_000, subsample_size=x.shape[0], dim=-1):  # <- here
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": ["scale|subsampl"],
    "fix": [r"subsampl|unscaled|plate\(|remove|drop|rows|shape"],
}

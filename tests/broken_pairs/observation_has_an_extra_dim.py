"""Data keep a channel dimension, (64, 1, 20), that the likelihood of shape (64, 20) does not have.

The value broadcasts to a 64 x 64 table of log-probabilities, silently without validation. Fix: flatten
`x` where it is observed, or unsqueeze the decoder's output and use `.to_event(2)`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(1, 20), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[-1]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)  # <- here


class Guide(PyroModule):
    def __init__(self, model, x_shape=(1, 20)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[-1], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 1, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bx\b", "shape|broadcast|dim"],
    "fix": ["reshape|flatten|squeeze|to_event|shape|view|event"],
}

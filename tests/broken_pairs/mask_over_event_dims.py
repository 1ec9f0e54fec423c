"""Missing values are masked by `poutine.mask` around a site whose features are event dimensions.

A mask of shape (64, 20) cannot broadcast with log-probabilities of shape (64,): stock Pyro fails with a
bare shape error (and with 1 feature or 64 it would not fail at all). Fix:
`dist.Normal(...).mask(mask).to_event(1)`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, mask=None, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            mask = torch.ones(rows, 20, dtype=torch.bool) if mask is None else mask
            with poutine.mask(mask=mask):  # <- here
                return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)  # <- here


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
    rng = torch.Generator().manual_seed(0)
    mask = torch.rand(64, 20, generator=rng) < 0.8
    return {"x": torch.randn(64, 20, generator=rng) * mask, "mask": mask}


EXPECT = {
    "says": [r"\bx\b|mask", "mask", "shape|broadcast|size|dim|event"],
    "fix": [r"\.mask\(|to_event|event|shape"],
}

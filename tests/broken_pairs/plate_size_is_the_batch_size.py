"""The plate's size is the batch size of the training script, not the number of rows given.

Works until the last, smaller batch or until evaluation, then: "Shape mismatch inside plate('data')".
Fix: the size is `x.shape[0]`, or `n` when nothing is observed.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), z_dim=4, batch_size=100):
        super().__init__()
        self.z_dim = z_dim
        self.batch_size = batch_size
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", self.batch_size, dim=-1):  # <- here
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)  # <- here


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.batch_size = model.batch_size
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", self.batch_size, dim=-1):  # <- here
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bdata\b|plate", "100|size|rows|shape"],
    "fix": [r"shape\[|len\(|rows|size|\bn\b"],
}

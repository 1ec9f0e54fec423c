"""An enumerated component is concatenated with a latent that has no enumeration dimension.

Drawing works, for both are (rows, ...); under enumeration one is (clusters, 1, ...) and `torch.cat`
fails with a bare size error. Fix: broadcast the two before `cat`, or add two linear maps.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import one_hot, softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), clusters=5, z_dim=4):
        super().__init__()
        self.clusters, self.z_dim = clusters, z_dim
        self.decoder = nn.Linear(clusters + z_dim, x_shape[0])

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(self.clusters)))  # <- here
            code = torch.cat([one_hot(c, self.clusters).float(), z], -1)  # <- here
            return pyro.sample("x", dist.Normal(self.decoder(code), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, discrete={"c": "enumerate"})


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": ["enumer|parallel|leading"],
    "fix": ["broadcast|expand|enumer|leading|cat"],
}

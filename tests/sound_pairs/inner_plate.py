"""A plate of features at dim -2, with a latent in it, inside the data plate: `plates=2`."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(6,)):
        super().__init__()
        self.features = x_shape[0]
        self.gain = nn.Parameter(torch.ones(self.features, 1))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            level = pyro.sample("level", dist.Normal(torch.tensor(0.0), 1.0))
            with pyro.plate("features", self.features, dim=-2):
                z = pyro.sample("z", dist.Normal(level, 1.0))
                draws = pyro.sample("x", dist.Normal(self.gain * z, 0.5), obs=None if x is None else x.mT)
        return draws.mT


class Guide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.features = model.features
        self.encoder = nn.Linear(model.features, 2 + 2 * model.features)

    def forward(self, x):
        loc, raw = self.encoder(x).mT.chunk(2, -2)
        scale = softplus(raw)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("level", dist.Normal(loc[0], scale[0]))
            with pyro.plate("features", self.features, dim=-2):
                pyro.sample("z", dist.Normal(loc[1:], scale[1:]))


PAIR = Pair(model=Model, guide=Guide, data=None, plates=2)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 6, generator=torch.Generator().manual_seed(0))}

"""A convolutional pair whose decoder folds all leading dimensions into one and unfolds them again."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(1, 8, 8), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.lift = nn.Linear(z_dim, 8 * 4 * 4)
        self.up = nn.ConvTranspose2d(8, x_shape[0], 4, stride=2, padding=1)

    def decode(self, z):
        maps = self.lift(z).relu().reshape(-1, 8, 4, 4)
        images = self.up(maps)
        return images.reshape(*z.shape[:-1], *images.shape[1:])

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(3), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(1, 8, 8)):
        super().__init__()
        self.conv = nn.Conv2d(x_shape[0], 8, 4, stride=2, padding=1)
        self.head = nn.Linear(8 * 4 * 4, 2 * model.z_dim)

    def forward(self, x):
        loc, raw = self.head(self.conv(x).relu().flatten(1)).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": (torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()}

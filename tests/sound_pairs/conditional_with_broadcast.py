"""A conditional pair: the label is given, expanded to the latent's leading dimensions before `cat`."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import one_hot, softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), y_shape=(3,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(nn.Linear(z_dim + y_shape[0], 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, y, n=None):
        with pyro.plate("data", y.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            label = y.expand(*z.shape[:-1], -1)
            loc = self.decoder(torch.cat([z, label], -1))
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,), y_shape=(3,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0] + y_shape[0], 2 * model.z_dim)

    def forward(self, x, *, y):
        loc, raw = self.encoder(torch.cat([x, y], -1)).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, conditions=("y",))


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    y = one_hot(torch.randint(3, (64,), generator=rng), 3).float()
    return {"x": torch.randn(64, 20, generator=rng), "y": y}

"""The callables take `images`, the data's field is `x`.

Batches are passed as keywords: the guide fails with a TypeError, and a model whose arguments all have
defaults would never be given its data. Fix: name the argument as the field, `x`.
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
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, images=None, *, n=None):  # <- here
        rows = n if images is None else images.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=images)  # <- here


class Guide(PyroModule):  # <- here
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, images):  # <- here
        loc, raw = self.encoder(images).chunk(2, -1)
        with pyro.plate("data", images.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)  # <- here


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bimages\b|\bx\b", "argument|signature|parameter|keyword|accept|take|field"],
    "fix": [r"\bx\b|rename|name|argument"],
}

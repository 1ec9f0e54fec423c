"""Raw pixels 0..255 go into an encoder whose scale is `exp(...)`.

At initialization the exponents are of the order of 100 and more, up or down: scales are inf or 0, and
the bound is NaN. Stock Pyro raises about the scale, or warns of a NaN loss. Fix: divide the pixels by
255, or softplus, or clamp the log-scale.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)  # <- here


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.ReLU(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {"x": 255.0 * (torch.rand(64, 784, generator=rng) < 0.5)}


EXPECT = {
    "says": [r"\bz\b|\bx\b|scale|guide", "nan|inf|finite|overflow|constraint|positive|invalid"],
    "fix": ["softplus|clamp|scale|255|normaliz|standardiz|smaller|divide|finite|exp"],
}

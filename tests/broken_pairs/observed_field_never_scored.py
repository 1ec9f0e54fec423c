"""`observed` promises log p(x, y), but `y` only feeds the decoder.

Nothing fails in stock Pyro: the reported bound is one on log p(x | y), read as one on log p(x, y). Fix:
score `y` with a sample statement, or declare it by `conditions=("y",)`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import one_hot, softplus

from ppvae.pair import Pair


class Model(PyroModule):  # <- here
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.from_z = nn.Linear(z_dim, x_shape[0])
        self.from_y = nn.Linear(3, x_shape[0])

    def forward(self, x=None, *, y=None, n=None):  # <- here
        rows = n if x is None else x.shape[0]
        y = torch.zeros(rows, 3) if y is None else y
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            loc = torch.tanh(self.from_z(z) + self.from_y(y))
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0] + 3, 2 * model.z_dim)

    def forward(self, x, *, y):
        loc, raw = self.encoder(torch.cat([x, y], -1)).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, observed=("x", "y"))  # <- here


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    y = one_hot(torch.randint(3, (64,), generator=rng), 3).float()
    return {"x": torch.randn(64, 20, generator=rng), "y": y}


EXPECT = {
    "says": [r"\by\b", "scored|observed|sample|never|site"],
    "fix": ["condition|sample|obs|score"],
}

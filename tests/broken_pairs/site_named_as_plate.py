"""The observed site is called `data`, and so is the plate around it.

A plate is a site too: stock Pyro raises a RuntimeError about the name on the first trace. Fix: rename
the field and its site (`x`), and leave `data` to the plate.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Linear(z_dim, 20)

    def forward(self, data=None, *, n=None):
        rows = n if data is None else data.shape[0]
        with pyro.plate("data", rows, dim=-1):  # <- here
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("data", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=data)  # <- here


class Guide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.encoder = nn.Linear(20, 2 * model.z_dim)

    def forward(self, data):
        loc, raw = self.encoder(data).chunk(2, -1)
        with pyro.plate("data", data.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, observed=("data",))


def data() -> dict[str, torch.Tensor]:
    return {"data": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bdata\b", "plate|twice|duplicate|multiple|same name|already|both"],
    "fix": ["name|rename"],
}

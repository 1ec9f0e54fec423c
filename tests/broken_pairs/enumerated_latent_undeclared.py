"""A mixture was meant to sum over its component `c`, but `discrete` does not say "enumerate".

`c` is in no guide, so stock Pyro's Trace_ELBO draws it from the prior, with a warning: all components
move to the mean. Fix: `discrete={"c": "enumerate"}`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), clusters=5, z_dim=4):
        super().__init__()
        self.prior_loc = PyroParam(torch.randn(clusters, z_dim))
        self.decoder = nn.Linear(z_dim, x_shape[0])

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(len(self.prior_loc))))  # <- here
            z = pyro.sample("z", dist.Normal(self.prior_loc[c], 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):  # <- here
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * 4))

    def forward(self, x):  # <- here
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)  # <- here


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bc\b", "guide|enumerate|discrete"],
    "fix": ["enumerate|guide"],
}

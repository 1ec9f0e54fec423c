"""The guide gives one noise value per row where the model has one per feature.

Event shape (1,) broadcasts against (20,) in the prior and in the likelihood: stock Pyro raises with
validation on, and without it the ELBO counts log p of one number twenty times and log q once. Fix: an
encoder with as many outputs as the latent has dimensions.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,)):
        super().__init__()
        self.loc = PyroParam(torch.zeros(x_shape[0]))
        self.gain = PyroParam(torch.ones(x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(self.loc)), 1.0).to_event(1))  # <- here
            return pyro.sample("x", dist.Normal(self.loc + self.gain * z, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0], 2)

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bz\b", "shape|dimension|broadcast|size"],
    "fix": ["shape|dim|size|same|match|20|expand"],
}

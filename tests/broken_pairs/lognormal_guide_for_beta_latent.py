"""The latent lives on the unit interval, the guide on all positive numbers.

About half of the draws are above 1, where the prior is zero: an error with validation; without it the
formula of Beta(1, 1) goes on giving density one out there, and nothing fails. Fix: Beta, Kumaraswamy or
a logistic-normal guide.
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
        self.ends = PyroParam(torch.randn(2, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            share = pyro.sample("share", dist.Beta(torch.ones(1), torch.ones(1)).to_event(1))  # <- here
            loc = share * self.ends[0] + (1 - share) * self.ends[1]
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0], 2)

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("share", dist.LogNormal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bshare\b", "support|domain|interval|constraint"],
    "fix": ["Beta|Kumaraswamy|unit|sigmoid|support|same|transform"],
}

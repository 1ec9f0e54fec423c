"""KL annealing by `poutine.scale` around the latent, as in Pyro's deep Markov model.

The number that is logged as the ELBO is then no bound on log p(x), and a multi-sample bound is wrong
altogether, without a word. Fix: leave the pair unscaled and anneal by the estimator's beta.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.beta = 0.1
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            with poutine.scale(scale=self.beta):  # <- here
                z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))  # <- here
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.beta = 0.1
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with poutine.scale(scale=self.beta), pyro.plate("data", x.shape[0], dim=-1):  # <- here
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": ["scale", r"\bz\b|poutine|beta|anneal"],
    "fix": ["beta|estimator|remove|drop|unscaled|knob|schedule"],
}

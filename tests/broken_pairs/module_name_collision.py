"""Encoder and decoder are both registered as `pyro.module("net", ...)`, and have the same shapes.

The guide runs first and takes the name in the global store. The model's registration finds those
parameters there and returns a copy with them, which nobody uses: the decoder's own are in no optimizer
and never train, and stock Pyro says nothing. Fix: `"encoder"` and `"decoder"`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import nn

from ppvae.pair import Pair


class Model(nn.Module):
    def __init__(self, z_dim=8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(z_dim, 8), nn.Tanh(), nn.Linear(8, 8))  # <- here

    def forward(self, x=None, *, n=None):
        pyro.module("net", self.net)  # <- here
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))  # <- here

    def forward(self, x):
        pyro.module("net", self.net)  # <- here
        scale = pyro.param("q_scale", torch.ones(8), constraint=constraints.positive)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), scale).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 8, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [
        r"\bnet\b",
        "both|share|collision|collide|same|clash|twice|model and guide|already|train|regist",
    ],
    "fix": ["rename|name|prefix|distinct|encoder|decoder"],
}

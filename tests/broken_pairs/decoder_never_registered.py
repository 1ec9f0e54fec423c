"""Plain functions: the guide registers its net by `pyro.module`, the model forgets to.

The decoder's parameters are not in the parameter store, so SVI's optimizer never sees them and the
decoder keeps its random start. Stock Pyro says nothing. Fix: `pyro.module("decoder", decoder)` in the
model.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair

decoder = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 20))  # <- here
encoder = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 8))


def model(x=None, *, n=None):  # <- here
    rows = n if x is None else x.shape[0]
    with pyro.plate("data", rows, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)  # <- here


def guide(x):
    pyro.module("encoder", encoder)
    loc, raw = encoder(x).chunk(2, -1)
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=model, guide=guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": ["decoder|model|Linear|weight", r"regist|pyro\.module|paramet|optimi|train"],
    "fix": [r"pyro\.module|regist|PyroModule|class"],
}

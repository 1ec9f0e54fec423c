"""Model and guide each own a `pyro.param("scale", ...)`: the noise of the data and the width of q.

The store is global: whoever runs first makes it, the other's initial value and constraint are ignored,
and one number serves for both, trained by both. Stock Pyro says nothing. Fix: two names.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from ppvae.pair import Pair

ones = torch.ones(())


def model(x=None, *, n=None):
    rows = n if x is None else x.shape[0]
    scale = pyro.param("scale", 0.1 * ones, constraint=constraints.positive)  # <- here
    loc = pyro.param("loc", torch.zeros(20))
    with pyro.plate("data", rows, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(loc + z, scale).to_event(1), obs=x)


def guide(x):
    gain = pyro.param("gain", 0.1 * ones)
    scale = pyro.param("scale", ones, constraint=constraints.positive)  # <- here
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(gain * x.sum(-1, keepdim=True), scale).to_event(1))


PAIR = Pair(model=model, guide=guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bscale\b", "both|share|collision|collide|same|clash|twice|model and guide|already"],
    "fix": ["rename|name|prefix|distinct"],
}

"""Factor analysis as two plain functions with bare `pyro.param`: no class, no net."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from ppvae.pair import Pair


def model(x=None, *, n=None):
    rows = n if x is None else x.shape[0]
    loadings = pyro.param("loadings", lambda: 0.3 * torch.randn(2, 6))
    noise = pyro.param("noise", torch.ones(6), constraint=constraints.positive)
    with pyro.plate("data", rows, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ loadings, noise).to_event(1), obs=x)


def guide(x):
    weights = pyro.param("weights", lambda: 0.3 * torch.randn(6, 2))
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(x @ weights, scale).to_event(1))


PAIR = Pair(model=model, guide=guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 6, generator=torch.Generator().manual_seed(0))}

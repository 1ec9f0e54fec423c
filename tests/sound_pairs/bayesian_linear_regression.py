"""Global latents only: weights and noise outside the plate, x given, y scored."""

# pyright: reportArgumentType=false

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(5,)):
        super().__init__()
        self.features = x_shape[0]

    def forward(self, x, *, y=None, n=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(self.features), 1.0).to_event(1))
        noise = pyro.sample("noise", dist.Gamma(torch.tensor(2.0), torch.tensor(2.0)))
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("y", dist.Normal((x * w).sum(-1), noise), obs=y)


class Guide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.loc = PyroParam(torch.zeros(model.features))
        self.scale = PyroParam(0.1 * torch.ones(model.features), constraint=constraints.positive)
        self.noise_loc = PyroParam(torch.tensor(0.0))
        self.noise_scale = PyroParam(torch.tensor(0.1), constraint=constraints.positive)

    def forward(self, x, *, y=None):
        pyro.sample("w", dist.Normal(self.loc, self.scale).to_event(1))
        pyro.sample("noise", dist.LogNormal(self.noise_loc, self.noise_scale))


PAIR = Pair(model=Model, guide=Guide, data=None, observed=("y",), conditions=("x",))


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=rng)
    return {"x": x, "y": x @ torch.arange(5.0) + 0.5 * torch.randn(64, generator=rng)}

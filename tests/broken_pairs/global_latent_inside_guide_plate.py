"""Regression weights are one vector in the model, and one per row in the guide.

The model scores 64 different weight vectors under one prior statement: stock Pyro's validation raises
that the shapes disagree; without it 64 weight vectors are fitted instead of one. Fix: sample `w`
outside the plate in the guide too.
"""

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
        weights = dist.Normal(torch.zeros(self.features), 1.0).to_event(1)
        w = pyro.sample("w", weights)  # <- here
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)


class Guide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.loc = PyroParam(torch.zeros(model.features))
        self.scale = PyroParam(0.1 * torch.ones(model.features), constraint=constraints.positive)

    def forward(self, x, *, y=None):
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("w", dist.Normal(self.loc, self.scale).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None, observed=("y",), conditions=("x",))


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=rng)
    return {"x": x, "y": x @ torch.arange(5.0) + 0.5 * torch.randn(64, generator=rng)}


EXPECT = {
    "says": [r"\bw\b", "plate"],
    "fix": ["plate|outside|before|move|inside"],
}

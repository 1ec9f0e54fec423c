"""Weights shared by all data are sampled inside the data plate in the model, outside it in the guide.

The guide's one draw meets a prior that the plate has expanded: log p(w) counts once per row, and the
weights are regularized 64 times too much. Stock Pyro raises about the shapes with validation on, and
trains without. Fix: sample `w` before the plate in the model too.
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
        with pyro.plate("data", x.shape[0], dim=-1):
            w = pyro.sample("w", weights)  # <- here
            return pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)


class Guide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.loc = PyroParam(torch.zeros(model.features))
        self.scale = PyroParam(0.1 * torch.ones(model.features), constraint=constraints.positive)

    def forward(self, x, *, y=None):
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

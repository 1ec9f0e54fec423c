"""An angle has a von Mises guide, which has no reparameterized draws, and the pair does not say so.

Stock Pyro falls back to the score function in silence: gradients are right and very noisy, and
estimators of path derivatives are wrong. Fix: `discrete={"angle": "score"}`, or a reparameterized
ProjectedNormal.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(2,)):
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.3), constraint=constraints.positive)

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            angle = pyro.sample("angle", dist.VonMises(torch.tensor(0.0), torch.tensor(0.1)))
            loc = torch.stack([angle.cos(), angle.sin()], -1)
            return pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(2,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0], 3)

    def forward(self, x):
        sin, cos, raw = self.encoder(x).unbind(-1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("angle", dist.VonMises(torch.atan2(sin, cos), softplus(raw)))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)  # <- here


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    angle = 6.28 * torch.rand(64, generator=rng)
    return {"x": torch.stack([angle.cos(), angle.sin()], -1) + 0.1 * torch.randn(64, 2, generator=rng)}


EXPECT = {
    "says": [r"\bangle\b", "reparam|rsample|score|VonMises"],
    "fix": ["score|reparam|ProjectedNormal|rsample"],
}

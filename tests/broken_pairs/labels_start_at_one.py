"""Labels 1..3 are scored under a Categorical with 3 classes, which knows 0..2.

With validation stock Pyro raises; without it an index is out of bounds (on a GPU: an assertion that
kills the process). Fix: subtract one from the labels, or use 4 classes.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Linear(z_dim, x_shape[0])
        self.classifier = nn.Linear(z_dim, 3)

    def forward(self, x=None, *, y=None, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("y", dist.Categorical(logits=self.classifier(z)), obs=y)  # <- here
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None, observed=("x", "y"))


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {"x": torch.randn(64, 20, generator=rng), "y": torch.randint(1, 4, (64,), generator=rng)}


EXPECT = {
    "says": [r"\by\b", "support|categor|class|integer|range|label|index"],
    "fix": ["subtract|label|class|support|num|start|from 0|minus"],
}

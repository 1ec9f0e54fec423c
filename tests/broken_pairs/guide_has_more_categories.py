"""The guide chooses among 10 levels, the model knows 5.

Half of the draws have probability zero under the prior: stock Pyro raises about the support with
validation, and an index error without. Fix: read the number of levels off the model.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), levels=5):
        super().__init__()
        self.levels = levels
        self.decoder = nn.Linear(1, x_shape[0])

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(self.levels)))  # <- here
            loc = self.decoder(c.unsqueeze(-1) / self.levels)
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,), levels=10):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0], levels)

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("c", dist.Categorical(logits=self.encoder(x)))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None, discrete={"c": "score"})


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bc\b", "support|categor|domain|shape|size|10"],
    "fix": ["categor|same|support|number|size|shape|levels"],
}

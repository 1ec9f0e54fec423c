"""Topic proportions have a Dirichlet prior, the guide draws plain Normals of the same event shape.

The draws do not lie on the simplex: an error with validation, NaN without. Fix: a Dirichlet or a
logistic-normal guide (softmax of a Normal, with its Jacobian).
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), topics=3):
        super().__init__()
        self.topics = topics
        self.words = nn.Linear(topics, x_shape[0])

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            theta = pyro.sample("theta", dist.Dirichlet(0.5 * torch.ones(self.topics)))  # <- here
            return pyro.sample("x", dist.Poisson(softplus(self.words(theta))).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0], 2 * model.topics)

    def forward(self, x):
        loc, raw = self.encoder(x.log1p()).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("theta", dist.Normal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.poisson(3.0 * torch.ones(64, 20), generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\btheta\b", "support|domain|simplex|constraint"],
    "fix": ["Dirichlet|simplex|softmax|logistic|support|same|transform"],
}

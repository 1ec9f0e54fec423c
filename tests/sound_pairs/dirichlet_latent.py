"""Topic proportions: a Dirichlet prior and guide, words scored by a Multinomial of varying length."""

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
        self.words = nn.Parameter(torch.randn(topics, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            theta = pyro.sample("theta", dist.Dirichlet(0.5 * torch.ones(self.topics)))
            probs = theta @ self.words.softmax(-1)
            length = 50 if x is None else int(x.sum(-1).max())
            return pyro.sample("x", dist.Multinomial(length, probs), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0], model.topics)

    def forward(self, x):
        concentration = softplus(self.encoder(x.log1p())) + 0.1
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("theta", dist.Dirichlet(concentration))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.poisson(3.0 * torch.ones(64, 20), generator=torch.Generator().manual_seed(0))}

"""No latents: a product of conditionals from one masked linear map, an empty guide, an exact bound."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,)):
        super().__init__()
        self.features = x_shape[0]
        self.weight = nn.Parameter(0.1 * torch.randn(self.features, self.features))
        self.bias = nn.Parameter(torch.zeros(self.features))

    def logits(self, x):
        return x @ self.weight.tril(-1).mT + self.bias

    def draw(self, rows):
        x = torch.zeros(rows, self.features)
        for i in range(self.features):
            x[:, i] = torch.bernoulli(self.logits(x)[:, i].sigmoid())
        return x

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        if x is None:
            with torch.no_grad():
                x = self.draw(rows)
        with pyro.plate("data", rows, dim=-1):
            return pyro.sample("x", dist.Bernoulli(logits=self.logits(x)).to_event(1), obs=x)


def guide(x=None):
    pass


PAIR = Pair(model=Model, guide=guide, data=None, bound="exact")


def data() -> dict[str, torch.Tensor]:
    return {"x": (torch.rand(64, 20, generator=torch.Generator().manual_seed(0)) < 0.3).float()}

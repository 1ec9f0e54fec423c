"""A plain Gaussian mixture: all latents are summed out, the guide is empty, the ELBO is log p(x)."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), clusters=5):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.loc = nn.Parameter(torch.randn(clusters, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            return pyro.sample("x", dist.Normal(self.loc[c], 0.5).to_event(1), obs=x)


def guide(x=None):
    pass


PAIR = Pair(model=Model, guide=guide, data=None, discrete={"c": "enumerate"}, bound="exact")


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}

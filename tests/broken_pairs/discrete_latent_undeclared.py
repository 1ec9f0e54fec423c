"""A Categorical latent in model and guide, and the pair does not say how it is handled.

Stock Pyro takes the score function without a baseline, in silence; most do not know that they have
asked for it. Fix: `discrete={"c": "score"}`, or `"enumerate"`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), clusters=5):
        super().__init__()
        self.loc = PyroParam(torch.randn(clusters, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=torch.zeros(len(self.loc))))  # <- here
            return pyro.sample("x", dist.Normal(self.loc[c], 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0], len(model.loc))

    def forward(self, x):
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("c", dist.Categorical(logits=self.encoder(x)))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)  # <- here


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bc\b", "discrete|categorical|reparam|declare|rsample"],
    "fix": ["discrete|score|enumerate"],
}

"""The number of latents is drawn by `torch.randint`, apart in the model and in the guide.

Model and guide hold different sites in different runs: now the guide lacks one, now it has one too
many. Stock Pyro warns in some steps and trains on. Fix: draw the depth by a sample statement, or always
sample all of the latents and mask.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,)):
        super().__init__()
        self.decoder = nn.Linear(2, x_shape[0])

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        depth = int(torch.randint(1, 5, ()))  # <- here
        with pyro.plate("data", rows, dim=-1):
            loc = 0.0
            for i in range(depth):
                z = pyro.sample(f"z{i}", dist.Normal(torch.zeros(2), 1.0).to_event(1))  # <- here
                loc = loc + self.decoder(z)
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Linear(x_shape[0], 4)

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        depth = int(torch.randint(1, 5, ()))  # <- here
        with pyro.plate("data", x.shape[0], dim=-1):
            for i in range(depth):
                pyro.sample(f"z{i}", dist.Normal(loc, softplus(raw)).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [
        r"z_?\d|z_\{|site|latent",
        "differ|run|change|control|vary|random|unstable|sometimes|not the same|lack|miss|not in",
    ],
    "fix": ["sample|mask|fixed|same|determin|always|control|random|branch|guide|declare"],
}

"""A class in the style of Pyro's tutorials, with `guide=None`, whose guide is called `inference`.

The built model has no attribute `guide`: an AttributeError on the first use. Fix: call the method
`guide`, or give `guide=` to the pair.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class VAE(nn.Module):  # <- here
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Linear(x_shape[0], 2 * z_dim)
        self.decoder = nn.Linear(z_dim, x_shape[0])

    def model(self, x=None, *, n=None):
        pyro.module("decoder", self.decoder)
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def inference(self, x):  # <- here
        pyro.module("encoder", self.encoder)
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=VAE, guide=None, data=None)  # <- here


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [r"\bguide\b", "method|attribute|no guide|missing|has no|lacks"],
    "fix": ["guide"],
}

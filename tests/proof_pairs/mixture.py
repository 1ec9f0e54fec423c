"""A mixture with a latent below its component, which is summed out.

    c ~ Categorical(softmax(a))          c: (B,) of C
    z | c ~ N(m_c, diag(s_c^2))          z: (B, 2)
    x | z, c ~ N(W z + b_c, 0.5^2 I)     x: (B, 3)

`PAIR`: the guide proposes z alone and the model sums c out. `IN_GUIDE`: q(c | x) q(z | x, c), summed under
the guide.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from ppvae.pair import Pair

COMPONENTS = 3


class Mixture(PyroModule):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(COMPONENTS))
        self.loc = nn.Parameter(torch.randn(COMPONENTS, 2))
        self.raw_scale = nn.Parameter(0.3 * torch.randn(COMPONENTS, 2))
        self.out = nn.Linear(2, 3)
        self.shift = nn.Parameter(torch.randn(COMPONENTS, 3))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(self.loc[c], self.raw_scale[c].exp()).to_event(1))
            return pyro.sample("x", dist.Normal(self.out(z) + self.shift[c], 0.5).to_event(1), obs=x)


class LatentOnly(PyroModule):
    def __init__(self, model: Mixture):
        super().__init__()
        self.encoder = nn.Linear(3, 4)

    def forward(self, x, *, n=None):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class Both(PyroModule):
    def __init__(self, model: Mixture):
        super().__init__()
        self.classify = nn.Linear(3, COMPONENTS)
        self.encoder = nn.Linear(3, 4)
        self.shift = nn.Parameter(torch.randn(COMPONENTS, 2))

    def forward(self, x, *, n=None):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=self.classify(x)))
            pyro.sample("z", dist.Normal(loc + self.shift[c], raw.exp()).to_event(1))


PAIR = Pair(
    model=Mixture, guide=LatentOnly, data=None, discrete={"c": "enumerate"}, latent="c summed out; z: reals"
)
IN_GUIDE = Pair(
    model=Mixture, guide=Both, data=None, discrete={"c": "enumerate"}, latent="c summed under q; z: reals"
)


def data(n=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(n, 3, generator=generator, dtype=torch.get_default_dtype())}

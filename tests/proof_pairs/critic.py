"""A VAE with an L1 penalty on its code and a critic that has an optimizer of its own.

    z ~ N(0, I)                  z: (B, 2)
    x | z ~ N(W z + b, I)        x: (B, 4)

The critic learns to tell codes from draws of the prior (logistic loss, group `critic`); model and guide pay
for the codes that it recognizes (penalty `recognized`) and for large codes (penalty `l1`).
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair, penalty


class Model(PyroModule):
    def __init__(self, x_shape=(4,)):
        super().__init__()
        self.decoder = nn.Linear(2, x_shape[0])
        self.critic = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            penalty("l1", 0.1 * z.abs().sum(-1))
            penalty("recognized", self.critic(z).squeeze(-1))
            # The mirror image stands in for a draw of the prior, so that scoring draws nothing beyond the
            # guide.
            told = softplus(-self.critic(z.detach())) + softplus(self.critic(-z.detach()))
            penalty("critic", told.squeeze(-1), group="critic")
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model: Model):
        super().__init__()
        self.encoder = nn.Linear(model.decoder.out_features, 4)

    def forward(self, x, *, n=None):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


PAIR = Pair(
    model=Model, guide=Guide, data=None, groups={"critic": ("model.critic",)}, latent="z: reals, penalized"
)


def data(n=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(n, 4, generator=generator, dtype=torch.get_default_dtype())}

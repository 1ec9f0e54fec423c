"""A guide draws a base noise of its own, marked auxiliary, and the latent is a Delta at its image."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            noise = dist.Normal(torch.zeros(loc.shape[-1]), 1.0).to_event(1)
            eps = pyro.sample("eps", noise, infer={"is_auxiliary": True})
            log_jacobian = softplus(raw).log().sum(-1)
            image = loc + softplus(raw) * eps
            pyro.sample("z", dist.Delta(image, -log_jacobian, event_dim=1))  # pyright: ignore[reportArgumentType]


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}

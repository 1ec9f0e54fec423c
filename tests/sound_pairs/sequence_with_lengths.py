"""Series of varying length: padding is masked by `lengths`, and the encoder's GRU reads rows apart."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(12, 3), z_dim=4):
        super().__init__()
        self.z_dim, self.x_shape = z_dim, tuple(x_shape)
        self.decoder = nn.Linear(z_dim, math.prod(x_shape))

    def forward(self, x=None, *, lengths=None, n=None):
        rows = n if x is None else x.shape[0]
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            steps = dist.Normal(self.decoder(z).unflatten(-1, self.x_shape), 0.5).to_event(1)
            if lengths is not None:
                steps = steps.mask(torch.arange(self.x_shape[0]) < lengths.unsqueeze(-1))
            return pyro.sample("x", steps.to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(12, 3)):
        super().__init__()
        self.rnn = nn.GRU(x_shape[-1], 16, batch_first=True)
        self.head = nn.Linear(16, 2 * model.z_dim)

    def forward(self, x, *, lengths=None):
        states, _ = self.rnn(x)
        last = states.shape[1] - 1 if lengths is None else lengths - 1
        loc, raw = self.head(states[torch.arange(x.shape[0]), last]).chunk(2, -1)
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data=None)


def data() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 13, (64,), generator=rng)
    mask = torch.arange(12) < lengths.unsqueeze(-1)
    return {"x": torch.randn(64, 12, 3, generator=rng) * mask.unsqueeze(-1), "lengths": lengths}

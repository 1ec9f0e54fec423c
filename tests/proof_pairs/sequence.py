"""A sequence VAE: sequences of unequal length, of which only the real tokens are scored.

    z_b ~ N(0, I)                                         z: (B, 2)
    s_tb | z_b ~ N((U z_b)_1, 1)   for t < lengths_b      s: (T, B)
    x_bt | z_b, s_tb ~ Categorical(softmax(p_t + W z_b + s_tb v))   x: (B, T) of V symbols

Two plates: time at dim -2, data at dim -1. `mask`, (B, T) of bool, takes out single tokens on top of
`lengths`.
"""
# pyright: reportArgumentType=false

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from ppvae.pair import Pair

STEPS, SYMBOLS = 5, 4


def real(rows, lengths, mask):
    """Which tokens are real, (T, B)."""
    found = torch.ones(STEPS, rows, dtype=torch.bool)
    if lengths is not None:
        found = found & (torch.arange(STEPS)[:, None] < lengths)
    return found if mask is None else found & mask.T


class Sequences(PyroModule):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(STEPS, 1, SYMBOLS))
        self.out = nn.Linear(2, SYMBOLS, bias=False)
        self.drift = nn.Linear(2, 1)
        self.direction = nn.Parameter(torch.randn(SYMBOLS))

    def forward(self, x=None, *, lengths=None, mask=None, n=None):
        rows = n if x is None else len(x)
        seen = real(rows, lengths, mask)
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("time", STEPS, dim=-2), poutine.mask(mask=seen):
                s = pyro.sample("s", dist.Normal(self.drift(z).squeeze(-1), 1.0))
                logits = self.position + self.out(z) + s.unsqueeze(-1) * self.direction
                x = pyro.sample("x", dist.Categorical(logits=logits), obs=None if x is None else x.T)
        return x.transpose(-1, -2)


class Reader(PyroModule):
    def __init__(self, model: Sequences):
        super().__init__()
        self.token = nn.Embedding(SYMBOLS, 6)

    def forward(self, x, *, lengths=None, mask=None, n=None):
        seen = real(len(x), lengths, mask)
        tokens = self.token(x.T) * seen.unsqueeze(-1)  # (T, B, 6)
        loc, raw, step, width = tokens.split([2, 2, 1, 1], -1)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(loc.sum(0), raw.mean(0).exp()).to_event(1))
            with pyro.plate("time", STEPS, dim=-2), poutine.mask(mask=seen):
                loc = step.squeeze(-1) + 0.5 * z.sum(-1)
                pyro.sample("s", dist.Normal(loc, width.squeeze(-1).exp()))


PAIR = Pair(model=Sequences, guide=Reader, data=None, plates=2, latent="z: per sequence; s: per token")


def data(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randint(SYMBOLS, (n, STEPS), generator=generator),
        "lengths": torch.randint(1, STEPS + 1, (n,), generator=generator),
        "mask": torch.rand(n, STEPS, generator=generator) < 0.8,
    }

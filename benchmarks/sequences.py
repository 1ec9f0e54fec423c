"""A recurrent pair to time: a digit as a sequence of rows, read by a GRU and written by one.

    z_b ~ N(0, I)                                             z: (B, latent)
    h_0 = tanh(A z + a),   h_t = GRU(h_{t-1}, x_{t-1}),  x_0 = 0
    x_bt | z_b, x_b,<t ~ prod_d Bernoulli(x_btd; (C h_t + c)_d)   x: (B, steps, width)

    q(z_b | x_b) = N(loc, scale^2) of the last state of a GRU that reads x_b

Reference: Bowman et al. (2016), Generating Sentences from a Continuous Space, arXiv:1511.06349, with rows of
pixels for words. It is scored only: nothing is drawn from it here.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.pair import Pair

STEPS, WIDTH = 14, 56
"""A digit of 28 by 28 pixels, two rows a step."""


class Writer(PyroModule):
    """p(x, z); x as pictures, (B, 1, 28, 28)."""

    def __init__(self, latent: int = 16, hidden: int = 64):
        super().__init__()
        self.latent = latent
        self.start = nn.Linear(latent, hidden)
        self.writer = nn.GRU(WIDTH, hidden, batch_first=True)
        self.out = nn.Linear(hidden, WIDTH)
        self.register_buffer("zeros", torch.zeros(latent), persistent=False)

    def logits(self, z: Tensor, rows: Tensor) -> Tensor:
        """Of every pixel given those before it, (B, steps, width)."""
        before = torch.cat([torch.zeros_like(rows[:, :1]), rows[:, :-1]], 1)
        states, _ = self.writer(before, self.start(z).tanh().unsqueeze(0))
        return self.out(states)

    def forward(self, x: Tensor) -> None:
        rows = x.reshape(len(x), STEPS, WIDTH)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.logits(z, rows)).to_event(2), obs=rows)


class Reader(PyroModule):
    """q(z | x)."""

    def __init__(self, model: Writer, hidden: int = 64):
        super().__init__()
        self.reader = nn.GRU(WIDTH, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 2 * model.latent)

    def forward(self, x: Tensor) -> None:
        states, _ = self.reader(x.reshape(len(x), STEPS, WIDTH))
        loc, raw = self.head(states[:, -1]).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 1e-5 + softplus(raw)).to_event(1))


PAIR = Pair(model=Writer, guide=Reader, data="digits", latent="z: 16 reals, diagonal Gaussian")

"""The autoencoder's encoder as a guide: q(z | x) = Delta(z - encoder(x)), a point.

Covers the one latent z without uncertainty. What is maximized is log p(x | encoder(x)): it is no bound on any
log p(x), since the rate KL(q(z | x), p(z)) is missing, and it is infinite for a point under any density p(z).
Costs one pass of the encoder per datum. A missing value (mask False) enters the encoder as 0.

Reference: Hinton & Salakhutdinov (2006), Reducing the Dimensionality of Data with Neural Networks,
Science 313.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from ppvae.models.autoencoder import Autoencoder
from ppvae.nets import MLP, Brought, brought
from ppvae.pair import Pair


class Point(PyroModule):
    """z = encoder(x), (B, latent).

    Args:
        model: a model with `x_shape` and `latent`.
        hidden: widths of the encoder's hidden layers; unused where `encoder` is given.
        encoder: any net from (B, *x_shape) to as many numbers as the code has; see `ppvae.nets`.
    """

    def __init__(
        self, model: Autoencoder, hidden: Sequence[int] = (400, 400), encoder: Brought | None = None
    ):
        super().__init__()
        net = encoder or partial(MLP, model.x_shape, model.latent, hidden)
        self.encoder = brought(net, model.x_shape, model.latent)

    def forward(self, x, *, mask=None, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Delta(self.encoder(x if mask is None else x * mask), event_dim=1))


PAIR = Pair(
    model=Autoencoder,
    guide=Point,
    data="digits",
    train={"epochs": 20, "schedule": "cosine"},
    bound="none",
    latent="z: 20 reals, a point without a prior",
    reference="Hinton & Salakhutdinov (2006), Reducing the Dimensionality of Data with Neural Networks",
)

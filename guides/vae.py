"""The variational autoencoder's guide: q(z | x) = N(loc(x), diag(scale(x)^2)), both from one encoder.

Covers the one latent z. Its gap KL(q, p(z | x)) has two parts, which `ppvae evaluate` tells apart: the
posterior of a nonlinear decoder is no diagonal Gaussian (approximation gap), and one encoder serves all data
(amortization gap). Exact only for a linear decoder with orthogonal columns: see `linear_vae`. Costs one pass
of the encoder per datum.

A missing value (mask False) enters the encoder as 0.

Reference: Kingma & Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn

from ppvae.models.vae import VAE
from ppvae.nets import MLP, Brought, Folded, Gaussian, brought
from ppvae.pair import Pair


class DiagonalGaussian(PyroModule):
    """q(z | x) = N(loc(x), diag(scale(x)^2)); loc, scale: (B, latent).

    Args:
        model: a model with `x_shape` and `latent`.
        hidden: widths of the encoder's hidden layers; unused where `encoder` is given.
        encoder: any net from (B, *x_shape) to features; see `ppvae.nets`. Linear maps to loc and scale follow
            it.
    """

    def __init__(self, model: VAE, hidden: Sequence[int] = (400, 400), encoder: Brought | None = None):
        super().__init__()
        net = brought(encoder or partial(MLP, model.x_shape, hidden[-1], hidden[:-1]), model.x_shape)
        # Our nets end with a linear layer; a net of the user's own is taken to end as they want it.
        self.encoder = Gaussian(net, model.latent, activation=None if isinstance(net, Folded) else nn.ReLU)

    def forward(self, x, *, mask=None, n=None):
        with pyro.plate("data", len(x), dim=-1):
            loc, scale = self.encoder(x if mask is None else x * mask)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


PAIR = Pair(
    model=VAE,
    guide=DiagonalGaussian,
    data="digits",
    train={"schedule": "cosine"},
    latent="z: 20 reals, diagonal Gaussian",
    reference="Kingma & Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114",
)

"""The guide of `bernoulli_vae`: q(z | x) = prod_j Bernoulli(z_j; sigmoid(encoder(x)_j)).

Covers the one latent z, a vector of bits that are not reparameterized: its gradient needs the score function,
a relaxation, or, for few bits, the sum over all values. Never exact: given x the bits depend on each other
(approximation gap), and one encoder serves all data (amortization gap). Costs one pass of the encoder per
datum.

A missing value (mask False) enters the encoder as 0.

Reference: Mnih & Gregor (2014), Neural Variational Inference and Learning in Belief Networks,
arXiv:1402.0030.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from ppvae.models.bernoulli_vae import BernoulliVAE
from ppvae.nets import MLP, Brought, brought
from ppvae.pair import Pair


class FactorizedBernoulli(PyroModule):
    """q(z | x) = prod_j Bernoulli(z_j; sigmoid(encoder(x)_j)); encoder(x): (B, latent).

    Args:
        model: a model with `x_shape` and `latent`.
        hidden: widths of the encoder's hidden layers; unused where `encoder` is given.
        encoder: any net from (B, *x_shape) to (B, latent), the log-odds; see `ppvae.nets`.
    """

    def __init__(
        self, model: BernoulliVAE, hidden: Sequence[int] = (200, 200), encoder: Brought | None = None
    ):
        super().__init__()
        make = encoder or partial(MLP, model.x_shape, model.latent, hidden)
        self.encoder = brought(make, model.x_shape, (model.latent,))

    def forward(self, x, *, mask=None, n=None):
        with pyro.plate("data", len(x), dim=-1):
            logits = self.encoder(x if mask is None else x * mask)
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))


PAIR = Pair(
    model=BernoulliVAE,
    guide=FactorizedBernoulli,
    data="digits",
    discrete={"z": "score"},
    train={"estimator": "gumbel:temperature=0.5", "epochs": 40, "schedule": "cosine"},
    latent="z: 200 bits, factorized",
    reference="Mnih & Gregor (2014), Neural Variational Inference and Learning, arXiv:1402.0030",
)

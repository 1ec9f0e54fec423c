"""A variational autoencoder with a binary code: independent bits, decoded into the parameters of p(x | z).

    z_bj ~ Bernoulli(sigmoid(prior_logits_j))       z: (B, latent)
    x_b  ~ prod_d p(x_bd | decoder(z_b)_d)          x: (B, *x_shape), decoder(z): (B, *raw_shape)

The prior's log-odds are learned and start at 0. The likelihood is one of `ppvae.distributions`. The decoder
takes a relaxed z between 0 and 1 as it stands.

A small code, such as latent=6, has so few values that log p(x) is a sum over all of them: see the estimator
`enumeration`.

Reference: Mnih & Gregor (2014), Neural Variational Inference and Learning in Belief Networks,
arXiv:1402.0030; with a nonlinear decoder as in Dong, Mnih & Tucker (2020), DisARM, arXiv:2006.10680.

Departures from Dong et al.:
    1. ReLUs, where they have leaky ones, and bits 0, 1 at the decoder, where they have -1, 1.
    2. Weights start as He's, see `ppvae.nets`.

The decoder does not start at the pixels' log-odds, as `vae` does: from there, this one was seen to stay at
the best model without a code, since to ignore 200 random bits is then the quickest gain.

Not to be confused with a Bernoulli *likelihood*, which any VAE may have.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppvae.models.vae import VAE
from ppvae.nets import Brought


class BernoulliVAE(VAE):
    """p(x, z) = prod_j Bernoulli(z_j) p(x | decoder(z)).

    Args:
        x_shape: shape of one datum.
        latent: number of bits.
        hidden: widths of the decoder's hidden layers; unused where `decoder` is given.
        likelihood: `bernoulli`, `continuous_bernoulli`, `gaussian` or `discretized_logistic`.
        decoder: any net from (B, latent) to as many numbers as the likelihood needs; see `ppvae.nets`.
    """

    def __init__(
        self,
        x_shape: tuple[int, ...] = (1, 28, 28),
        latent: int = 200,
        hidden: Sequence[int] = (200, 200),
        likelihood: str = "bernoulli",
        decoder: Brought | None = None,
    ):
        super().__init__(x_shape, latent, hidden, likelihood, decoder=decoder)
        self.prior_logits = nn.Parameter(torch.zeros(latent))

    def forward(self, x=None, *, mask=None, n=None):
        rows = len(x) if x is not None else 1 if n is None else n
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior_logits).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z), x, mask), obs=x)

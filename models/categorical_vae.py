"""A variational autoencoder whose code is a row of categorical choices, decoded into p(x | z).

    z_bi ~ Cat(1 / categories)                      z: (B, codes, categories), each z_bi one-hot
    x_b  ~ prod_d p(x_bd | decoder(z_b)_d)          x: (B, *x_shape), decoder(z): (B, *raw_shape)

The prior is uniform and has no parameters. The likelihood is one of `ppvae.distributions`. The decoder takes
a relaxed z, whose rows are points of the simplex, as it stands.

A small code, such as codes=3 categories=4, has so few values that log p(x) is a sum over all of them: see the
estimator `enumeration`.

Reference: Jang, Gu & Poole (2017), Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144;
Maddison, Mnih & Teh (2017), The Concrete Distribution, arXiv:1611.00712.

Departures from Jang et al.:
    1. 20 variables of 10 categories, the sizes of their published code.
    2. Two hidden layers of 200 ReLUs, whose weights start as He's, see `ppvae.nets`.

The decoder does not start at the pixels' log-odds, as `vae` does: see `bernoulli_vae`.

Not to be confused with a VQ-VAE, whose one-hot code is the nearest entry of a codebook and has no noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor

from ppvae.distributions import OneHotCategorical
from ppvae.models.vae import VAE
from ppvae.nets import Brought


class CategoricalVAE(VAE):
    """p(x, z) = prod_i Cat(z_i; uniform) p(x | decoder(z)).

    Args:
        x_shape: shape of one datum.
        codes: number of categorical variables.
        categories: number of values of each.
        hidden: widths of the decoder's hidden layers; unused where `decoder` is given.
        likelihood: `bernoulli`, `continuous_bernoulli`, `gaussian` or `discretized_logistic`.
        decoder: any net from (B, codes * categories) to as many numbers as the likelihood needs; see
            `ppvae.nets`.
    """

    logits: Tensor

    def __init__(
        self,
        x_shape: tuple[int, ...] = (1, 28, 28),
        codes: int = 20,
        categories: int = 10,
        hidden: Sequence[int] = (200, 200),
        likelihood: str = "bernoulli",
        decoder: Brought | None = None,
    ):
        super().__init__(x_shape, codes * categories, hidden, likelihood, decoder=decoder)
        self.codes, self.categories = codes, categories
        self.register_buffer("logits", torch.zeros(codes, categories), persistent=False)

    def forward(self, x=None, *, mask=None, n=None):
        rows = len(x) if x is not None else 1 if n is None else n
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", OneHotCategorical(logits=self.logits).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z.flatten(-2)), x, mask), obs=x)

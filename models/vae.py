"""The variational autoencoder's model: a standard normal code, decoded into the parameters of p(x | z).

    z_b ~ N(0, I)                               z: (B, latent)
    x_b ~ prod_d p(x_bd | decoder(z_b)_d)       x: (B, *x_shape), decoder(z): (B, *raw_shape)

The likelihood p(x_d | .) is one of `ppvae.distributions`: for `gaussian` the decoder gives a mean and a
diagonal covariance, for `bernoulli` the logits.

Reference: Kingma & Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114; Rezende, Mohamed &
Wierstra (2014), Stochastic Backpropagation and Approximate Inference in Deep Generative Models,
arXiv:1401.4082.

Departures from Kingma & Welling:
    1. Two hidden layers of 400 ReLUs and Adam, where they have one of 500 tanh and Adagrad.
    2. No prior on the weights; their initialization is He's, see `ppvae.nets`.
    3. The decoder's bias starts at the pixels' log-odds, as in Burda, Grosse & Salakhutdinov (2016).
    4. The Gaussian's mean is not squashed to [0, 1], and its scale has a floor of 1/255.

Not to be confused with the autoencoder, whose code has no prior and from which nothing can be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppvae.distributions import Likelihood
from ppvae.nets import MLP, Brought, brought


class VAE(PyroModule):
    """p(x, z) = N(z; 0, I) p(x | decoder(z)).

    Args:
        x_shape: shape of one datum.
        latent: size of the code.
        hidden: widths of the decoder's hidden layers; unused where `decoder` is given.
        likelihood: `bernoulli`, `continuous_bernoulli`, `gaussian` or `discretized_logistic`.
        x_mean: mean of the training data, at which a Bernoulli likelihood starts.
        decoder: any net from (B, latent) to as many numbers as the likelihood needs; see `ppvae.nets`.
    """

    def __init__(
        self,
        x_shape: tuple[int, ...] = (1, 28, 28),
        latent: int = 20,
        hidden: Sequence[int] = (400, 400),
        likelihood: str = "bernoulli",
        x_mean: Tensor | None = None,
        decoder: Brought | None = None,
    ):
        super().__init__()
        self.x_shape, self.latent = tuple(x_shape), latent
        self.likelihood = Likelihood(likelihood, self.x_shape)
        raw_shape = self.likelihood.raw_shape
        self.decoder = brought(decoder or partial(MLP, latent, raw_shape, hidden), latent, raw_shape)
        if x_mean is not None and likelihood == "bernoulli" and hasattr(self.decoder, "bias"):
            with torch.no_grad():
                self.decoder.bias.copy_(self.likelihood.start(x_mean))
        self.register_buffer("zeros", torch.zeros(latent), persistent=False)

    def forward(self, x=None, *, mask=None, n=None):
        rows = len(x) if x is not None else 1 if n is None else n
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z), x, mask), obs=x)

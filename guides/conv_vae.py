"""The guide of `conv_vae`: q(z | x) = N(loc(x), diag(scale(x)^2)) with a convolutional encoder.

Covers the one latent z, as the guide of `vae` does: never exact, with an approximation and an amortization
gap. Costs one pass of the encoder per datum. A missing value (mask False) enters the encoder as 0.

Reference: Kingma & Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114.
"""

from __future__ import annotations

from functools import partial

from ppvae.guides.vae import DiagonalGaussian
from ppvae.models.conv_vae import ConvVAE
from ppvae.nets import ConvEncoder
from ppvae.pair import Pair


class ConvDiagonalGaussian(DiagonalGaussian):
    """q(z | x) = N(loc(x), diag(scale(x)^2)) on the `features` numbers of a `ConvEncoder`."""

    def __init__(self, model: ConvVAE, features: int = 256, width: int = 32):
        super().__init__(model, encoder=partial(ConvEncoder, model.x_shape, features, width))


PAIR = Pair(
    model=ConvVAE,
    guide=ConvDiagonalGaussian,
    data="digits",
    train={"epochs": 20, "schedule": "cosine"},
    latent="z: 32 reals, diagonal Gaussian",
    reference="Kingma & Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114",
)

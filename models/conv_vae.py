"""A variational autoencoder of pictures: the story of `vae`, with a convolutional decoder.

    z_b ~ N(0, I)                               z: (B, latent)
    x_b ~ prod_d p(x_bd | decoder(z_b)_d)       x: (B, C, H, W), sides of 16 pixels or more, grey or colour

Reference: Kingma & Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114; nets sized after Higgins
et al. (2017), beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework.

Departures:
    1. Kingma & Welling's nets are fully connected; see `vae` for further departures.
    2. One linear layer leads from the code to the first picture, where beta-VAE has two.
    3. The decoder does not start at the pixels' log-odds, as `vae` does: from there, this one was seen to
       stay at the best model without a code.

Not to be confused with a model of pictures of any size: the decoder's linear layer fixes H and W.
"""

from __future__ import annotations

from functools import partial

from ppvae.distributions import Likelihood
from ppvae.models.vae import VAE
from ppvae.nets import ConvDecoder


class ConvVAE(VAE):
    """p(x, z) = N(z; 0, I) p(x | decoder(z)) with a `ConvDecoder`.

    Args:
        x_shape: (C, H, W).
        latent: size of the code.
        width: channels of the outer convolutions; the inner ones have twice as many.
        likelihood: `bernoulli`, `continuous_bernoulli`, `gaussian` or `discretized_logistic`.
    """

    def __init__(
        self,
        x_shape: tuple[int, ...] = (1, 28, 28),
        latent: int = 32,
        width: int = 32,
        likelihood: str = "bernoulli",
    ):
        decoder = partial(ConvDecoder, latent, Likelihood(likelihood, x_shape).raw_shape, width)
        super().__init__(x_shape, latent, likelihood=likelihood, decoder=decoder)

"""The autoencoder, as the contrast to `vae`: the same decoder, and nothing said about where codes come from.

    z_b ~ nothing: a site without probability   z: (B, latent)
    x_b ~ prod_d p(x_bd | decoder(z_b)_d)       x: (B, *x_shape)

The site z is a standard normal that is masked out, so that it adds 0 to log p. This is p(x | z) alone and no
joint
density: no evidence exists that anything could bound. Drawing from the model decodes codes of N(0, I), which
is the mistake that a variational autoencoder mends: no encoder ever put a code there.

Reference: Hinton & Salakhutdinov (2006), Reducing the Dimensionality of Data with Neural Networks, Science
    313.

Departures:
    1. No layer-wise pretraining.
    2. The likelihood is any of `ppvae.distributions`; with `gaussian` its negative log is a weighted squared
       error.

Not to be confused with a variational autoencoder whose rate is weighted by 0: that guide still adds noise to
the code.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist

from ppvae.models.vae import VAE


class Autoencoder(VAE):
    """p(x | decoder(z)) without a prior; the arguments are those of `VAE`."""

    def forward(self, x=None, *, mask=None, n=None):
        rows = len(x) if x is not None else 1 if n is None else n
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1).mask(False))
            return pyro.sample("x", self.likelihood(self.decoder(z), x, mask), obs=x)

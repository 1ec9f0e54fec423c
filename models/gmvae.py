"""A variational autoencoder with a mixture of Gaussians as its prior: each component is to become a cluster.

    c_b ~ Cat(softmax(prior_logits))                c: (B, components), one-hot
    z_b ~ N(loc[c_b], diag(scale[c_b]^2))           z: (B, latent); loc, scale: (components, latent)
    x_b ~ prod_d p(x_bd | decoder(z_b)_d)           x: (B, *x_shape), decoder(z): (B, *raw_shape)

x depends on c through z alone, so that c is summed out exactly: p(z) = sum_c p(c) N(z; loc[c], scale[c]^2),
and p(c | z) is known in closed form (`component_given`).

Two things go wrong with mixtures. Components that start alike stay alike: here the means start apart, as
draws of N(0, spread^2). And components may end up unused, or share a class with others: nothing in the bound
asks for clusters that a person would name. The published remedy is to start from a trained autoencoder and
the mixture that fits its codes; this pair has no such pretraining.

Reference: Jiang, Zheng, Tan, Tang & Zhou (2017), Variational Deep Embedding (VaDE), arXiv:1611.05148.

Departures from VaDE:
    1. c is summed out, where VaDE sets q(c | x) = p(c | z) for a draw of z: the same maximum over q(c | x),
       without a guide for c.
    2. No pretraining; two hidden layers of 400 ReLUs, as in `vae`; 20 latents, where VaDE has 10.

Not to be confused with the GMVAE of Dilokthanakul et al. (2016), whose components are nets of a further
latent, or with `conjugate_mixture`, where x is z plus noise and all is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.distributions import OneHotCategorical
from ppvae.models.vae import VAE
from ppvae.nets import Brought


class GMVAE(VAE):
    """p(x, z) = sum_c p(c) N(z; loc[c], diag(scale[c]^2)) p(x | decoder(z)).

    Args:
        x_shape: shape of one datum.
        latent: size of the code.
        components: number of Gaussians.
        spread: standard deviation of the start of their means; their own scale starts at 1.
        hidden: widths of the decoder's hidden layers; unused where `decoder` is given.
        likelihood: `bernoulli`, `continuous_bernoulli`, `gaussian` or `discretized_logistic`.
        x_mean: mean of the training data, at which a Bernoulli likelihood starts.
        decoder: any net from (B, latent) to as many numbers as the likelihood needs; see `ppvae.nets`.
    """

    def __init__(
        self,
        x_shape: tuple[int, ...] = (1, 28, 28),
        latent: int = 20,
        components: int = 10,
        spread: float = 1.0,
        hidden: Sequence[int] = (400, 400),
        likelihood: str = "bernoulli",
        x_mean: Tensor | None = None,
        decoder: Brought | None = None,
    ):
        super().__init__(x_shape, latent, hidden, likelihood, x_mean, decoder)
        self.components = components
        self.prior_logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(spread * torch.randn(components, latent))
        # softplus(0.5413) = 1
        self.raw_scale = nn.Parameter(torch.full((components, latent), 0.5413))

    @property
    def scale(self) -> Tensor:
        """Standard deviations of the components, (components, latent); at least 0.001, where a component on
        one datum would grow without bound."""
        return 1e-3 + softplus(self.raw_scale)

    def forward(self, x=None, *, mask=None, n=None):
        rows = len(x) if x is not None else 1 if n is None else n
        with pyro.plate("data", rows, dim=-1):
            c = pyro.sample("c", OneHotCategorical(logits=self.prior_logits))
            z = pyro.sample("z", dist.Normal(c @ self.loc, c @ self.scale).to_event(1))
            return pyro.sample("x", self.likelihood(self.decoder(z), x, mask), obs=x)

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(z, c) of each component in nats, (*batch, components)."""
        each = dist.Normal(self.loc, self.scale).to_event(1).log_prob(z.unsqueeze(-2))
        return self.prior_logits.log_softmax(-1) + each

    def component_given(self, z: Tensor) -> OneHotCategorical:
        """p(c | z), exactly, of z's batch shape."""
        return OneHotCategorical(logits=self.log_joint(z))

"""The guide of `gmvae`: q(z | x) = N(loc(x), diag(scale(x)^2)), and p(c | z) for the component.

Covers z; the component c is summed out in the model, exactly, so that importance weights exist. What the
datum says about it is read off by

    q(c | x) = E p(c | z) over q(z | x),

which is the best q(c | x, z) that there is, averaged over draws (`component`). It is exact where q(z | x) is;
never, that is: see `vae` for the two gaps. Costs one pass of the encoder per datum.

A missing value (mask False) enters the encoder as 0.

Reference: Jiang, Zheng, Tan, Tang & Zhou (2017), Variational Deep Embedding, arXiv:1611.05148, equation 16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppvae.guides.vae import DiagonalGaussian
from ppvae.models.gmvae import GMVAE
from ppvae.nets import Brought
from ppvae.pair import Pair


class ClusteringGaussian(DiagonalGaussian):
    """q(z | x) of `vae`, which can also tell the component of a datum."""

    def __init__(self, model: GMVAE, hidden: Sequence[int] = (400, 400), encoder: Brought | None = None):
        super().__init__(model, hidden, encoder)
        # Known to the guide, but none of its submodules: its parameters are the model's alone.
        object.__setattr__(self, "model", model)

    @torch.no_grad()
    def component(self, x: Tensor, particles: int = 100) -> Tensor:
        """q(c | x) = E p(c | z) by draws of q(z | x), (B, components); rows sum to one."""
        loc, scale = self.encoder(x)
        z = loc + scale * torch.randn((particles, *loc.shape), dtype=loc.dtype, device=loc.device)
        return self.model.component_given(z).probs.mean(0)  # type: ignore


PAIR = Pair(
    model=GMVAE,
    guide=ClusteringGaussian,
    data="digits",
    discrete={"c": "enumerate"},
    train={"epochs": 30, "schedule": "cosine"},
    latent="c: 1 of 10, summed out; z: 20 reals, diagonal Gaussian",
    reference="Jiang, Zheng, Tan, Tang & Zhou (2017), Variational Deep Embedding, arXiv:1611.05148",
)

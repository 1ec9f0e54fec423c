"""The linear variational autoencoder: a linear encoder that shares its mean with the model of pPCA.

    z_b ~ N(0, I),  x_b ~ N(W z_b + mean, s^2 I)       the model, which is that of models/ppca.py
    q(z_b | x_b) = N(V (x_b - mean), diag(scale^2))    V: (q, D); scale: (q,), the same for all data

Covers the one latent z. Encoder and decoder are linear and share the model's mean, so that the code of an
average datum is 0. A true posterior is N(M^-1 W'(x - mean), s^2 M^-1): the guide is exact if and only if W'W
is diagonal, and the loss elsewhere is 1/2 (sum_j log P_jj - log det P), P = I + W'W / s^2, at the guide's
best. Training model and guide together turns W until it is 0: the best ELBO is the maximum of the likelihood,
1/N log p(x) = -1/2 (D log 2 pi + sum_{j<=q} log l_j + (D-q) log s^2 + D), and there W'W = diag(l_j - s^2),
with the eigenvalues l_j of the data's covariance. Whatever collapses does so because l_j <= s^2, and not
because of the ELBO.

Differs from `ppca_mean_field`, the same family of q, in its use: there the encoder has a bias of its own and
is compared with other guides of one model; here it is tied to the model's mean, as in the paper.

Reference: Lucas, Tucker, Grosse & Norouzi (2019), Don't Blame the ELBO! A Linear VAE Perspective on Posterior
Collapse, arXiv:1911.02469.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from ppvae.models.ppca import PPCA, elbo, evidence, posterior
from ppvae.pair import Pair


class Linear(PyroModule):
    """q(z | x) = N(V (x - mean), diag(scale^2)), scale: (q,), with the mean of the model."""

    def __init__(self, model: PPCA):
        super().__init__()
        # Known to the guide, but none of its submodules: its parameters are the model's alone.
        object.__setattr__(self, "model", model)
        self.encoder = nn.Linear(math.prod(model.x_shape), model.latent, bias=False)
        self.scale = PyroParam(torch.ones(model.latent), constraints.positive)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.q(x))

    def q(self, x) -> Any:
        """q(z | x), of batch shape (B,)."""
        centred = x.flatten(-len(self.model.x_shape)) - self.model.mean
        return dist.Normal(self.encoder(centred), self.scale).to_event(1)  # type: ignore


PAIR = Pair(
    model=PPCA,
    guide=Linear,
    data="ppca_toy",
    train={"epochs": 1000, "lr": 1e-2, "schedule": "cosine"},
    evidence=evidence,
    posterior=posterior,
    elbo=elbo,
    latent="z: q reals, mean field, linear encoder",
    reference="Lucas, Tucker, Grosse & Norouzi (2019), Don't Blame the ELBO!, arXiv:1911.02469",
)

"""The guide of `categorical_vae`: q(z | x) = prod_i Cat(z_i; softmax(encoder(x)_i)).

Covers the one latent z, a row of one-hot vectors that are not reparameterized: its gradient needs a
relaxation, the score function, or, for a small code, the sum over all values. Never exact: given x the
variables depend on each other (approximation gap), and one encoder serves all data (amortization gap). Costs
one pass of the encoder per datum.

A missing value (mask False) enters the encoder as 0.

Reference: Jang, Gu & Poole (2017), Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyro
from pyro.nn import PyroModule

from ppvae.distributions import OneHotCategorical
from ppvae.models.categorical_vae import CategoricalVAE
from ppvae.nets import MLP, Brought, brought
from ppvae.pair import Pair


class FactorizedCategorical(PyroModule):
    """q(z | x) = prod_i Cat(z_i; softmax(encoder(x)_i)); encoder(x): (B, codes, categories).

    Args:
        model: a model with `x_shape`, `codes` and `categories`.
        hidden: widths of the encoder's hidden layers; unused where `encoder` is given.
        encoder: any net from (B, *x_shape) to codes * categories numbers; see `ppvae.nets`.
    """

    def __init__(
        self, model: CategoricalVAE, hidden: Sequence[int] = (200, 200), encoder: Brought | None = None
    ):
        super().__init__()
        code_shape = (model.codes, model.categories)
        make = encoder or partial(MLP, model.x_shape, code_shape, hidden)
        self.encoder = brought(make, model.x_shape, code_shape)

    def forward(self, x, *, mask=None, n=None):
        with pyro.plate("data", len(x), dim=-1):
            logits = self.encoder(x if mask is None else x * mask)
            pyro.sample("z", OneHotCategorical(logits=logits).to_event(1))


PAIR = Pair(
    model=CategoricalVAE,
    guide=FactorizedCategorical,
    data="digits",
    discrete={"z": "score"},
    train={"estimator": "gumbel:temperature=0.5", "epochs": 40, "schedule": "cosine"},
    latent="z: 20 choices of 10, factorized",
    reference="Jang, Gu & Poole (2017), Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144",
)

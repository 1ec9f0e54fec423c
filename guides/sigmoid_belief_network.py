"""The guide of the sigmoid belief network, its mirror image: layers of bits, drawn from x up.

    q(z | x) = q(z1 | x) q(z2 | z1) ... q(zL | z(L-1)),
    q(z_l | .) = Bernoulli(sigmoid(V_l z_(l-1) + a_l)), z_0 = x

Covers all layers, against the model's order. None of its bits is reparameterized. Never exact: given x and
the layers below, the units of a layer depend on each other, which explaining away makes them do. Costs one
linear map for each layer.

A missing value (mask False) enters as 0.

Reference: Mnih & Gregor (2014), Neural Variational Inference and Learning in Belief Networks,
arXiv:1402.0030.
"""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn

from ppvae.models.sigmoid_belief_network import SigmoidBeliefNetwork
from ppvae.nets import initialized
from ppvae.pair import Pair


class Mirror(PyroModule):
    """q(z1 | x) q(z2 | z1) ...; `up[l]` leads to z_(l+1)."""

    def __init__(self, model: SigmoidBeliefNetwork):
        super().__init__()
        self.event_dim = len(model.x_shape)
        sizes = [math.prod(model.x_shape), *model.layers]
        self.up = nn.ModuleList(
            initialized(nn.Sequential(nn.Linear(below, above))) for below, above in itertools.pairwise(sizes)
        )

    def forward(self, x, *, mask=None, n=None):
        below = (x if mask is None else x * mask).flatten(-self.event_dim)
        with pyro.plate("data", len(x), dim=-1):
            for i, up in enumerate(self.up):
                below = pyro.sample(f"z{i + 1}", dist.Bernoulli(logits=up(below)).to_event(1))


PAIR = Pair(
    model=SigmoidBeliefNetwork,
    guide=Mirror,
    data="digits",
    discrete={"z*": "score"},
    train={"estimator": "disarm", "epochs": 30, "schedule": "cosine"},
    latent="z1, z2: 200 bits each, factorized given the layer below",
    reference="Neal (1992), Connectionist Learning of Belief Networks, Artificial Intelligence 56",
)

"""The sigmoid belief network: layers of bits, each a logistic regression on the layer above.

    z_L   ~ Bernoulli(sigmoid(prior_logits))                     z_L: (B, layers[-1])
    z_l   ~ Bernoulli(sigmoid(W_l z_(l+1) + b_l)), l = L-1 .. 1  z_l: (B, layers[l-1])
    x     ~ Bernoulli(sigmoid(W_0 z_1 + b_0))                    x: (B, *x_shape)

Given the layer above, the units of a layer are independent; given x they are not. Everything is linear in the
log-odds, and a relaxed z between 0 and 1 is taken as it stands.

Reference: Neal (1992), Connectionist Learning of Belief Networks, Artificial Intelligence 56; trained by
amortized inference in Mnih & Gregor (2014), Neural Variational Inference and Learning in Belief Networks,
arXiv:1402.0030.

Departures from Mnih & Gregor:
    1. The bias of x starts at the pixels' log-odds; theirs at zero.
    2. No prior on the weights; their scale is that of `ppvae.nets`.

Not to be confused with a deep Boltzmann machine, whose layers are undirected, or with the noisy-or network,
where causes do not cancel each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppvae.distributions import Likelihood
from ppvae.errors import UsageError
from ppvae.nets import initialized


class SigmoidBeliefNetwork(PyroModule):
    """p(x, z1, ..., zL), drawn from the top down.

    Args:
        x_shape: shape of one datum.
        layers: numbers of units of z1, ..., zL, from the data up.
        x_mean: mean of the training data, at which the likelihood starts.

    Raises:
        UsageError: no layer.
    """

    def __init__(
        self,
        x_shape: tuple[int, ...] = (1, 28, 28),
        layers: Sequence[int] = (200, 200),
        x_mean: Tensor | None = None,
    ):
        super().__init__()
        if not layers:
            raise UsageError("layers=[]: give the number of units of one layer or more, such as [200,200]")
        self.x_shape, self.layers = tuple(x_shape), tuple(layers)
        self.likelihood = Likelihood("bernoulli", self.x_shape)
        self.prior_logits = nn.Parameter(torch.zeros(self.layers[-1]))
        sizes = [math.prod(self.x_shape), *self.layers]
        # From z1 to x, from z2 to z1, and so on: by the layer that they lead to.
        self.down = nn.ModuleList(
            initialized(nn.Sequential(nn.Linear(above, below))) for below, above in itertools.pairwise(sizes)
        )
        if x_mean is not None:
            with torch.no_grad():
                self.down[0][0].bias.copy_(self.likelihood.start(x_mean).flatten())  # type: ignore

    def forward(self, x=None, *, mask=None, n=None):
        rows = len(x) if x is not None else 1 if n is None else n
        with pyro.plate("data", rows, dim=-1):
            logits = self.prior_logits
            for i in reversed(range(len(self.layers))):
                z = pyro.sample(f"z{i + 1}", dist.Bernoulli(logits=logits).to_event(1))
                logits = self.down[i](z)
            return pyro.sample("x", self.likelihood(logits.unflatten(-1, self.x_shape), x, mask), obs=x)

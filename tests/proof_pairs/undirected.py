"""Undirected models: factors without observation, whose bound is one on log Z.

`PAIR`: an Ising ring of four spins, Z = sum_s exp(sum_i J s_i s_{i+1} + h s_i), s_i in {-1, 1}, with a
mean-field guide drawn and differentiated by the score function. `SUMMED`: the same with the spins enumerated
under the guide, which is the mean-field free energy. `EXACT`: the spins enumerated in the model, which is
log Z. `QUADRATIC`: a real vector, Z = int exp(-1/2 z'Az + b'z) dz, under a Gaussian guide.

A latent needs a sample statement; here its measure is 1: Bernoulli(1/2) with log 2 added, or an improper
uniform.
"""
# pyright: reportArgumentType=false

import itertools
import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints

from ppvae.pair import Pair

SPINS = 4
NAMES = tuple(f"s{i}" for i in range(SPINS))
PRECISION = ((2.0, 0.6), (0.6, 1.0))
SLOPE = (0.5, -1.0)


class Ring(PyroModule):
    def __init__(self):
        super().__init__()
        self.coupling = nn.Parameter(torch.tensor(0.4))
        self.field = nn.Parameter(torch.tensor(0.2))

    def forward(self):
        s = [2 * pyro.sample(name, dist.Bernoulli(torch.tensor(0.5))) - 1 for name in NAMES]
        pyro.factor("measure", torch.tensor(SPINS * math.log(2.0)))
        for i in range(SPINS):
            pyro.factor(f"bond{i}", self.coupling * s[i] * s[(i + 1) % SPINS])
            pyro.factor(f"field{i}", self.field * s[i])


class Spins(PyroModule):
    def __init__(self, model: Ring):
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(-0.5, 0.8, SPINS))

    def forward(self):
        for i, name in enumerate(NAMES):
            pyro.sample(name, dist.Bernoulli(logits=self.logits[i]))


def nothing():
    """The guide of a model whose latents are all summed out."""


class Quadratic(PyroModule):
    def forward(self):
        z = pyro.sample("z", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        a, b = torch.tensor(PRECISION, dtype=z.dtype), torch.tensor(SLOPE, dtype=z.dtype)
        pyro.factor("energy", -0.5 * ((z @ a) * z).sum(-1) + (b * z).sum(-1))


class Gaussian(PyroModule):
    def __init__(self, model: Quadratic):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.raw_scale = nn.Parameter(
            torch.full((2,), 0.4)
        )  # wider than the target, or weights have no variance

    def forward(self):
        pyro.sample("z", dist.Normal(self.loc, self.raw_scale.exp()).to_event(1))


EVERY = dict.fromkeys(NAMES, "enumerate")
SAMPLED = dict.fromkeys(NAMES, "score")
PAIR = Pair(model=Ring, guide=Spins, data=None, observed=(), discrete=SAMPLED, latent="4 spins")
SUMMED = Pair(model=Ring, guide=Spins, data=None, observed=(), discrete=EVERY, latent="4 spins")
EXACT = Pair(model=Ring, guide=nothing, data=None, observed=(), discrete=EVERY, latent="4 spins, summed out")
QUADRATIC = Pair(model=Quadratic, guide=Gaussian, data=None, observed=(), latent="2 reals")


def data():
    return {}


def energies(model: Ring):
    """(configurations, log of the unnormalized probability): (16, 4), (16,)."""
    s = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=SPINS)), dtype=model.field.dtype)
    return s, model.coupling * (s * s.roll(-1, 1)).sum(1) + model.field * s.sum(1)


def log_z(model: Ring):
    return energies(model)[1].logsumexp(0)


def log_z_quadratic():
    a, b = torch.tensor(PRECISION, dtype=torch.float64), torch.tensor(SLOPE, dtype=torch.float64)
    return 0.5 * b @ torch.linalg.solve(a, b) + math.log(2 * math.pi) - 0.5 * torch.logdet(a)

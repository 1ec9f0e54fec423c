"""Reference problems: models so small that every multi-sample expectation is a sum or a quadrature.

With the parameters that they are built with, at x = 1:

one_bit    p(z = 1) = .3, p(x = 1 | z) = .2, .9, q(z = 1 | x) = .6:  log p(x) = -.891598, ELBO = -.899033
gaussian   z ~ N(0, 1), x | z ~ N(z, 1), q(z | x) = N(.25, .8^2):    log p(x) = -1.515512, ELBO = -1.594582

They are pairs like any other. Their latents are called z, z1, z2 and c, for per-site choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.pair import Pair


def _parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values[0] if len(values) == 1 else values))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


class _Model(nn.Module):
    """What all models here can be given.

    Args:
        factor: multiplies log p(x | z) by `poutine.scale`: outside of the ELBO's sum it is a weight, inside
            a logsumexp a mistake.
        num_data: the data plate takes the batch for a sample of so many data.
    """

    def __init__(self, factor: float = 1.0, num_data: int | None = None):
        super().__init__()
        self.factor, self.num_data = factor, num_data

    def plate(self, x: Tensor | None, n: int | None):
        rows = n if x is None else len(x)
        assert rows is not None
        if self.num_data is None:
            return pyro.plate("data", rows, dim=-1)
        return pyro.plate("data", self.num_data, subsample=torch.arange(rows), dim=-1)

    def observe(self, p, x: Tensor | None):
        if self.factor == 1.0:
            return pyro.sample("x", p, obs=x)
        with poutine.scale(scale=self.factor):
            return pyro.sample("x", p, obs=x)


class OneBit(_Model):
    """z ~ Bernoulli, x | z ~ Bernoulli."""

    def __init__(self, factor: float = 1.0, num_data: int | None = None):
        super().__init__(factor, num_data)
        self.prior = _parameter(_logit(0.3))
        self.logits = _parameter(_logit(0.2), _logit(0.9) - _logit(0.2))

    def forward(self, x=None, *, n=None):
        with self.plate(x, n):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior))
            return self.observe(dist.Bernoulli(logits=self.logits[0] + self.logits[1] * z), x)


class OneBitGuide(nn.Module):
    """q(z = 1 | x) = .3 at x = 0 and .6 at x = 1."""

    def __init__(self, model: _Model):
        super().__init__()
        self.plate = model.plate
        self.logits = _parameter(_logit(0.3), _logit(0.6) - _logit(0.3))

    def forward(self, x, *, n=None):
        with self.plate(x, n):
            pyro.sample("z", dist.Bernoulli(logits=self.logits[0] + self.logits[1] * x))


class BeliefNet(nn.Module):
    """z2 ~ two bits, z1 | z2 ~ two bits, x | z1 ~ two bits: a sigmoid belief network."""

    def __init__(self):
        super().__init__()
        self.prior = _parameter(0.4, -0.6)
        self.hidden, self.visible = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Bernoulli(logits=self.prior).to_event(1))
            z1 = pyro.sample("z1", dist.Bernoulli(logits=self.hidden(2 * z2 - 1)).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.visible(2 * z1 - 1)).to_event(1), obs=x)


class BeliefNetGuide(nn.Module):
    """q(z1 | x) q(z2 | z1)."""

    def __init__(self, model: BeliefNet):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Bernoulli(logits=self.first(2 * x - 1)).to_event(1))
            pyro.sample("z2", dist.Bernoulli(logits=self.second(2 * z1 - 1)).to_event(1))


class Categories(nn.Module):
    """z ~ two categories out of three each, as rows of zeros and a one; x | z ~ two bits."""

    def __init__(self):
        super().__init__()
        self.prior = nn.Parameter(torch.tensor([[0.3, -0.2, 0.5], [-0.4, 0.1, 0.2]]))
        self.visible = nn.Linear(6, 2)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(logits=self.prior).to_event(1))
            logits = 2 * self.visible(z.flatten(-2))
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class CategoriesGuide(nn.Module):
    """q(z | x), logits linear in x."""

    def __init__(self, model: Categories):
        super().__init__()
        self.net = nn.Linear(2, 6)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            logits = self.net(2 * x - 1).unflatten(-1, (2, 3))
            pyro.sample("z", dist.OneHotCategorical(logits=logits).to_event(1))


class Gaussian(_Model):
    """z ~ N(0, 1), x | z ~ N(z, 1); location and scales are parameters."""

    def __init__(self, factor: float = 1.0, num_data: int | None = None):
        super().__init__(factor, num_data)
        self.loc, self.log_scale, self.log_noise = _parameter(0.0), _parameter(0.0), _parameter(0.0)

    def forward(self, x=None, *, n=None):
        with self.plate(x, n):
            z = pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))
            return self.observe(dist.Normal(z, self.log_noise.exp()), x)


class GaussianGuide(nn.Module):
    """q(z | x) = N(weight x + loc, scale^2)."""

    def __init__(self, model: _Model, weight: float = 0.3, loc: float = -0.05, scale: float = 0.8):
        super().__init__()
        self.plate = model.plate
        self.weight, self.loc, self.log_scale = (
            _parameter(weight),
            _parameter(loc),
            _parameter(math.log(scale)),
        )

    def forward(self, x, *, n=None):
        with self.plate(x, n):
            pyro.sample("z", dist.Normal(self.weight * x + self.loc, self.log_scale.exp()))


def gaussian_evidence(model: Gaussian, batch) -> Tensor:
    """log N(x; loc, scale^2 + noise^2)."""
    variance = (2 * model.log_scale).exp() + (2 * model.log_noise).exp()
    return dist.Normal(model.loc, variance.sqrt()).log_prob(batch["x"])


class TwoLayers(nn.Module):
    """z2 ~ N(0, 1), z1 | z2 ~ N(weight z2, scale^2), x | z1 ~ N(z1, noise^2)."""

    def __init__(self):
        super().__init__()
        self.weight, self.log_scale, self.log_noise = _parameter(0.8), _parameter(-0.3), _parameter(-0.2)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(self.weight), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.weight * z2, self.log_scale.exp()))
            return pyro.sample("x", dist.Normal(z1, self.log_noise.exp()), obs=x)


class TwoLayersGuide(nn.Module):
    """q(z1 | x) q(z2 | z1), the second not linear: its path runs through the first."""

    def __init__(self, model: TwoLayers):
        super().__init__()
        self.first, self.second = _parameter(0.6, 0.1, -0.5), _parameter(0.3, 0.4, -0.4)

    def forward(self, x, *, n=None):
        a, b = self.first, self.second
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(a[0] * x + a[1], a[2].exp()))
            pyro.sample("z2", dist.Normal(b[0] * z1 + b[1] * z1.tanh(), b[2].exp()))


def two_layers_evidence(model: TwoLayers, batch) -> Tensor:
    """log N(x; 0, weight^2 + scale^2 + noise^2)."""
    variance = model.weight**2 + (2 * model.log_scale).exp() + (2 * model.log_noise).exp()
    return dist.Normal(torch.zeros_like(variance), variance.sqrt()).log_prob(batch["x"])


class Mixture(nn.Module):
    """c ~ Bernoulli, z | c ~ N(locs[c], 1), x | z ~ N(z, noise^2)."""

    def __init__(self):
        super().__init__()
        self.logit, self.locs, self.log_noise = _parameter(-0.4), _parameter(-1.0, 1.5), _parameter(-0.1)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(logits=self.logit))
            loc = self.locs[0] + (self.locs[1] - self.locs[0]) * c
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            return pyro.sample("x", dist.Normal(z, self.log_noise.exp()), obs=x)


class MixtureGuide(nn.Module):
    """q(z | x): the model sums c out."""

    def __init__(self, model: Mixture):
        super().__init__()
        self.z = _parameter(0.5, 0.2, -0.3)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.z[0] * x + self.z[1], self.z[2].exp()))


class GuidedMixtureGuide(nn.Module):
    """q(c | x) q(z | x, c): a discrete latent above a continuous one."""

    def __init__(self, model: Mixture):
        super().__init__()
        self.c, self.z = _parameter(0.7, -0.2), _parameter(0.5, 0.3, -0.3)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(logits=self.c[0] * x + self.c[1]))
            pyro.sample("z", dist.Normal(self.z[0] * x + self.z[1] * (2 * c - 1), self.z[2].exp()))


@dataclass(frozen=True)
class Problem:
    """A pair of this file and the few data that it is looked at with."""

    pair: Pair
    x: tuple


def _problem(name: str, x: tuple, **pair) -> Problem:
    return Problem(Pair(name=name, data=None, **pair), x)


_BITS = ((1.0, 0.0), (1.0, 1.0))
_REALS = (1.0, -0.7)

PROBLEMS = (
    _problem("one_bit", (1.0, 0.0), model=OneBit, guide=OneBitGuide, discrete={"z": "score"}),
    _problem(
        "belief_net", _BITS, model=BeliefNet, guide=BeliefNetGuide, discrete={"z1": "score", "z2": "score"}
    ),
    _problem("categories", _BITS, model=Categories, guide=CategoriesGuide, discrete={"z": "score"}),
    _problem("gaussian", _REALS, model=Gaussian, guide=GaussianGuide, evidence=gaussian_evidence),
    _problem("two_layers", _REALS, model=TwoLayers, guide=TwoLayersGuide, evidence=two_layers_evidence),
    _problem("mixture", _REALS, model=Mixture, guide=MixtureGuide, discrete={"c": "enumerate"}),
    _problem("guided_mixture", _REALS, model=Mixture, guide=GuidedMixtureGuide, discrete={"c": "score"}),
)
"""Every expectation under these is known."""

SCALED = tuple(
    _problem(
        f"{name}_scaled", x, model=model, guide=guide, sizes={"factor": 3.0}, discrete=discrete
    )
    for name, x, model, guide, discrete in (
        ("one_bit", (1.0, 0.0), OneBit, OneBitGuide, {"z": "score"}),
        ("gaussian", _REALS, Gaussian, GaussianGuide, {}),
    )
)  # fmt: skip
"""log p(x | z) counts three times: to be refused by what weighs, or right."""

"""Discrete latents relaxed to points between their values: Gumbel-softmax, also called Concrete."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae.drawing import Draw, Drawn
from ppvae.errors import PairError
from ppvae.estimators.base import Claims, Functional, Knobs, Scorer, knob
from ppvae.estimators.elbo import ELBO
from ppvae.estimators.functionals import mean
from ppvae.estimators.objective import Objective
from ppvae.estimators.provenance import prior_is_known
from ppvae.estimators.relaxations import concrete_log_prob, is_relaxable, relaxed_draw
from ppvae.terms import Site, Terms

DENSITIES = ("kl", "relaxed")


class Gumbel(ELBO):
    """E_y[log p(x | y)] - rate, y a relaxed draw at temperature T, differentiated through y.

        y = softmax((logits + g) / T), g ~ Gumbel(0, 1)    or    y = sigmoid((logits + l) / T), l ~ Logistic

    No bound on log p(x): x is scored at points that the model never draws. Biased, model and guide; the bias
    falls with T and the variance rises. Every Bernoulli and OneHotCategorical of the guide is relaxed; other
    discrete latents are refused, or handled by `sites`.

    `density` says what the rate is:

    - "kl" (Jang et al.): KL(q, p) of the *discrete* distributions in closed form. Where the model's p of a
      site depends on what the guide draws later, no KL is known, and log q - log p extended linearly between
      the values stands for it.
    - "relaxed" (Maddison et al.): log q(y) - log p(y) of the relaxed densities, p relaxed at the same T. The
      value is then a lower bound, in the mean, on the evidence of the *relaxed* model, and is reported as
      such: it is no bound for the discrete one. This rate does not depend on T and exceeds the discrete KL,
      so that its bias stays as T falls.

    In training T = max(least, temperature exp(-rate step)), the knob `temperature`; elsewhere T =
    `temperature`. Knobs: `beta`, `free_bits` as in `elbo`.

    Reference: Jang, Gu & Poole (2017), arXiv:1611.01144; Maddison, Mnih & Teh (2017), arXiv:1611.00712.
    """

    claims = Claims(bound=None, biased=("model", "guide"))
    hard = False

    def __init__(
        self,
        particles: int = 1,
        temperature: float = 1.0,
        least: float = 0.1,
        rate: float = 0.0,
        density: str = "kl",
        beta: float = 1.0,
        free_bits: float = 0.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, beta, free_bits, sites)
        if not 0 < least <= temperature:
            fix = f"temperature={temperature},least={temperature}" if temperature > 0 else "positive ones"
            told = f"least={least} must lie above 0 and not above temperature={temperature}"
            raise ValueError(f"{told}: give {fix}")
        if rate < 0:
            raise ValueError(f"rate={rate}: the temperature falls as exp(-rate step), give 0 or more")
        if density not in DENSITIES:
            raise ValueError(f"density={density!r}: there are {' and '.join(DENSITIES)}")
        self.temperature, self.least, self.rate, self.density = temperature, least, rate, density

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("model", "guide"), mean)

    def schedule(self, step: int) -> dict[str, float]:
        return {"temperature": max(self.least, self.temperature * math.exp(-self.rate * step))}

    def drawing(self, knobs: Knobs) -> Draw:
        chosen = super().drawing(knobs)
        temperature = knob(knobs, "temperature", self.temperature)

        def draw(name: str, q: Any) -> Drawn | None:
            if name in self.sites:
                return None if chosen is None else chosen(name, q)
            if is_relaxable(q) or not q.has_rsample:
                return relaxed_draw(q, name, temperature, self.hard)
            return None

        return draw

    def score(self, scorer: Scorer, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        if self.density != "relaxed":
            return super().score(scorer, batch, knobs)
        with _Masks() as masks:
            terms = super().score(scorer, batch, knobs)
        for site in terms.sites.values():
            if site.how == "relaxed":
                self._refuse_density(site, terms, masked=site.name in masks.found)
        return terms

    def _refuse_density(self, site: Site, terms: Terms, masked: bool) -> None:
        """The relaxed density is summed to rows here, where neither a mask nor a scale is at hand."""
        if masked or site.name in terms.scaled:
            what = "mask" if masked else "scale"
            raise PairError(f"density=relaxed knows no {what} around latent {site.name!r}: use density=kl")
        if isinstance(site.noise, list):
            raise PairError(
                "density=relaxed wants all particles in one pass, but a BatchNorm or vectorize=False forbids "
                "it: use particles=1, or density=kl"
            )

    def site_ratio(self, site: Site, terms: Terms) -> Tensor:
        if site.how != "relaxed":
            return super().site_ratio(site, terms)
        if self.density == "relaxed" and site.p is not None:
            return _relaxed_ratio(site, terms)
        kl = site.analytic_kl() if prior_is_known(terms, site.name) else None
        return site.log_ratio if kl is None else -kl

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        found = super().objective(terms, knobs)
        return found if self.density == "relaxed" else dataclasses.replace(found, bound=None)


def _relaxed_ratio(site: Site, terms: Terms) -> Tensor:
    """log p(y) - log q(y) of the relaxed densities by rows: (K, B), or (K,) of a global latent."""
    each = concrete_log_prob(site.p, site.noise) - concrete_log_prob(site.q, site.noise)
    each = each.expand(site.q.batch_shape)
    rows = () if site.kind == "global" else (terms.rows,)
    return each.reshape(terms.particles, -1, *rows).sum(1)


class _Masks(Messenger):
    """The names of the sites under `poutine.mask`."""

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def _pyro_post_sample(self, msg) -> None:
        if msg["mask"] is not None and msg["mask"] is not True:
            self.found.add(msg["name"])

"""Antithetic pairs of Bernoulli draws: one from u, one from 1 - u.

A guide with T Bernoulli layers, b_1, ..., b_T in the order in which it draws them, gets pairs for each:

    pair of layer t    b_1 ... b_(t-1)    b_t                   b_(t+1) ... b_T
    first draw         shared             1[1 - u < s(a_t)]     its own
    second draw        shared             1[u < s(a_t)]         its own

with a_t the logits of b_t given what is shared and s the sigmoid. Either draw is one of q's own, so that all
of them serve the bound and the model's gradient. All pairs of all layers lie along the particles, (T, 2,
pairs), in one pass. Reparameterized latents are shared up to layer t likewise, and get the pathwise gradient.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from ppvae.drawing import Draw, Drawn
from ppvae.errors import PairError
from ppvae.estimators import sites as per_site
from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, knob
from ppvae.estimators.blocks import (
    Signal,
    look,
    refuse_one_by_one,
    shapes_of,
    spread,
)
from ppvae.estimators.functionals import mean
from ppvae.estimators.objective import Objective
from ppvae.terms import Terms
from ppvae.wrapped import innermost


@dataclasses.dataclass(frozen=True)
class Layer:
    """What the draws of one Bernoulli layer leave behind."""

    index: int
    uniform: Tensor
    """u of the pairs of this layer, (pairs, ...)."""


class Antithetic(Estimator):
    """What ARM and DisARM share; they differ in `slope`.

    Args:
        particles: draws for each Bernoulli layer, an even number: a guide of T layers draws T times as many.
        beta: weighs the rate in what is optimized; a knob.
    """

    claims = Claims(bound="lower")

    def __init__(self, particles: int = 2, beta: float = 1.0, sites: Mapping[str, str] | None = None):
        super().__init__(particles, sites)
        if particles % 2:
            raise ValueError(f"particles={particles}: antithetic draws come in pairs, give an even number")
        self.beta = beta
        self._layers: weakref.WeakKeyDictionary[Any, dict[Any, tuple[str, ...]]]
        self._layers = weakref.WeakKeyDictionary()
        """The Bernoulli layers of a guide, by the shapes of the batch."""

    def slope(self, first: Tensor, second: Tensor, uniform: Tensor, logits: Tensor) -> Tensor:
        """What (f(first) - f(second)) is multiplied by to estimate d E f / d logits."""
        raise NotImplementedError

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), mean)

    def score(self, scorer: Any, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        refuse_one_by_one(scorer, type(self).__name__)
        options = {"enumerated": per_site.enumerated(self.sites, scorer.enumerated)}
        chosen = self.drawing(knobs)
        layers = self._layers_of(scorer, batch, draw=chosen, **options)
        pairs = _Pairs(layers, self.particles // 2, chosen, type(self).__name__)
        terms = scorer.score(batch, pairs.particles, draw=pairs.draw, **options)
        pairs.check()
        return terms

    def _layers_of(self, scorer: Any, batch: Mapping[str, Any], **options: Any) -> tuple[str, ...]:
        known = self._layers.setdefault(scorer.guide, {})
        shapes = shapes_of(batch)
        if shapes not in known:
            found = look(scorer, batch, type(self).__name__, **options).discrete
            for name, q in found.items():
                if not isinstance(innermost(q), Bernoulli):
                    raise PairError(
                        f"{type(self).__name__} draws Bernoulli latents, but {name!r} is drawn from a "
                        f"{type(innermost(q)).__name__}: use vimco, rebar, rws or elbo, or enumerate it "
                        f"({name}=enumerate)"
                    )
            for name in found:
                if self.sites.get(name) == "score":
                    raise PairError(
                        f"{type(self).__name__} handles {name!r} by itself: leave out {name}=score, "
                        "or use elbo"
                    )
            if not found:
                raise PairError(
                    f"{type(self).__name__} is for Bernoulli latents, and the guide draws none: use elbo"
                )
            known[shapes] = tuple(found)
        return known[shapes]

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        signal = Signal.of(terms, knob(knobs, "beta", self.beta))
        loss = -signal.total() - self._surrogate(terms, signal)
        bound = terms.log_weight.mean(0) + terms.log_global.mean() / terms.num_data
        return Objective(bound.detach(), {"all": loss})

    def _surrogate(self, terms: Terms, signal: Signal) -> Tensor:
        """Of value zero; its gradient is that of E f through the logits of the Bernoulli latents."""
        layers = [s for s in terms.sites.values() if isinstance(s.noise, Layer)]
        total = terms.like.new_zeros(())
        for site in layers:
            index, uniform = site.noise.index, site.noise.uniform
            logits: Tensor = innermost(site.q).logits  # type: ignore[attr-defined]
            own = _blocks(logits, len(layers))[index, 0]
            first, second = _blocks(site.value, len(layers))[index]
            judged = _blocks(signal.at(site), len(layers))[index]
            gap = spread(judged[0] - judged[1], own, len(site.q.event_shape))
            slope = self.slope(first, second, uniform, own)
            total = total + ((gap * slope).detach() * own).sum() / len(own)
        return total - total.detach()


class _Pairs:
    """Draws the pairs of each layer, and what lies between the layers."""

    def __init__(self, layers: tuple[str, ...], pairs: int, chosen: Draw | None, name: str):
        self.layers, self.chosen, self.name = layers, chosen, name
        self.particles = len(layers) * 2 * pairs
        self.seen: list[str] = []

    def draw(self, name: str, q: Any) -> Drawn:
        made = self.chosen(name, q) if self.chosen is not None else None
        if made is None and q.has_rsample:
            made = Drawn(q(), "reparameterized")
        if made is not None and made.how != "score":
            return dataclasses.replace(made, value=self._shared(made.value, len(self.seen)))
        index = len(self.seen)
        self.seen.append(name)
        if index >= len(self.layers):
            self.check()
        logits: Tensor = innermost(q).logits  # type: ignore[attr-defined]
        u = _blocks(self._shared(torch.rand_like(logits), index + 1), len(self.layers))
        own = u[index, 0]
        u = torch.cat([u[:index], torch.stack([own, 1 - own]).unsqueeze(0), u[index + 1 :]])
        value = (u.reshape(logits.shape) > (-logits).sigmoid()).to(logits)
        return Drawn(value.detach(), "score", noise=Layer(index, own))

    def _shared(self, value: Tensor, since: int) -> Tensor:
        """The pairs of layer `since` and of those that follow it have one value for both draws."""
        blocks = _blocks(value, len(self.layers))
        both = blocks[since:, :1].expand(-1, 2, *(-1,) * (blocks.dim() - 2))
        return torch.cat([blocks[:since], both]).reshape(value.shape)

    def check(self) -> None:
        if tuple(self.seen) != self.layers:
            raise PairError(
                f"{self.name} found the Bernoulli latents {list(self.layers)}, and then {self.seen} under a "
                "batch of the same shapes: let the guide draw the same latents each time, or use elbo"
            )


def _blocks(value: Tensor, layers: int) -> Tensor:
    """(T * 2 * pairs, ...) as (T, 2, pairs, ...)."""
    return value.reshape(layers, 2, -1, *value.shape[1:])

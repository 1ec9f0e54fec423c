"""REBAR: the score function with a relaxation of the latent as its control variate."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.drawing import Draw, Drawn
from ppvae.errors import PairError
from ppvae.estimators import sites as per_site
from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, knob
from ppvae.estimators.blocks import Signal, look, refuse_one_by_one, shapes_of, spread
from ppvae.estimators.functionals import mean
from ppvae.estimators.objective import Objective, metrics
from ppvae.estimators.relaxations import harden, kind_of, noise_like, soften
from ppvae.graphs import graph_leaves
from ppvae.terms import Site, Terms
from ppvae.wrapped import innermost

BLOCKS = 3
"""Of the particles: hard draws, their relaxations, and relaxations drawn again given the hard draws."""


@dataclasses.dataclass(frozen=True)
class Companions:
    """What the draw of one discrete latent leaves behind: of each hard draw b, (n, ...) each."""

    kind: str
    logits: Tensor
    """A leaf: what the relaxed draws are differentiated in."""
    perturbed: Tensor
    """z = logits + noise, of which b is the discrete value."""
    again: Tensor
    """z~ ~ p(z | b)."""


class REBAR(Estimator):
    """d E_q[f(b)] / d a = E[(f(b) - h f(y~)) d log q(b) / d a + h d f(y) / d a - h d f(y~) / d a],

    a the logits, z = a + noise, b = H(z) the hard draw, y = soft_T(z) its relaxation, z~ ~ p(z | b) drawn
    again, y~ = soft_T(z~), f = log w of one datum, extended linearly between the values of b. The two last
    terms and h f(y~) cancel in the mean, whatever the temperature T and the scaling h are: both are learned,
    by the gradient of the single-draw variance of the estimate, in the optimizer group `estimator`.

    Lower bound (the ELBO, over the hard draws); unbiased, value and gradient. The model learns from hard
    draws alone. Three evaluations for each draw, laid out along the particles in one pass, and with `learn`
    a second derivative of the decoder. Needs Bernoulli or OneHotCategorical latents, none of which is drawn
    given another, and a model that computes with their values and so is differentiable between them (one that
    compares or indexes by them is not, and the gradient is then biased); reparameterized latents beside them
    get the pathwise gradient.

    Args:
        particles: hard draws, K.
        temperature: T at first.
        eta: h at first.
        learn: whether T and h are learned.
        beta: weighs the rate in what is optimized; a knob.

    Reference: Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein (2017), arXiv:1703.07370. Departures: z and z~
    take independent noise; one T and one h serve all latents.
    """

    claims = Claims(bound="lower")

    def __init__(
        self,
        particles: int = 1,
        temperature: float = 0.5,
        eta: float = 1.0,
        learn: bool = True,
        beta: float = 1.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, sites)
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}: it divides the logits, give more than 0")
        self.temperature, self.eta, self.learn, self.beta = temperature, eta, learn, beta
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learn)
        self.scaling = nn.Parameter(torch.tensor(float(eta)), requires_grad=learn)
        self._given: weakref.WeakKeyDictionary[Any, dict[Any, frozenset[str]]]
        self._given = weakref.WeakKeyDictionary()
        """The latents that a guide draws given discrete ones, by the shapes of the batch."""

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), mean)

    def score(self, scorer: Any, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        name = type(self).__name__
        refuse_one_by_one(scorer, name)
        chosen = self.drawing(knobs)
        options = {"enumerated": per_site.enumerated(self.sites, scorer.enumerated)}
        given = self._drawn_given(scorer, batch, draw=chosen, **options)
        drawing = _Drawing(self.particles, self.log_temperature.exp(), given, chosen, name)
        return scorer.score(batch, BLOCKS * self.particles, draw=drawing.draw, **options)

    def _drawn_given(self, scorer: Any, batch: Mapping[str, Any], **options: Any) -> frozenset[str]:
        """The continuous latents that are drawn given discrete ones; a discrete one among them is refused."""
        known, shapes = self._given.setdefault(scorer.guide, {}), shapes_of(batch)
        if shapes in known:
            return known[shapes]
        name = type(self).__name__
        first, second = (look(scorer, batch, name, flip=flip, **options) for flip in (False, True))
        if not first.discrete:
            raise PairError(
                f"{name} is for Bernoulli and OneHotCategorical latents, and the guide draws none: use elbo"
            )
        for latent, q in first.discrete.items():
            if self.sites.get(latent) == "score":
                raise PairError(f"{name} handles {latent!r} by itself: leave out {latent}=score, or use elbo")
            if not torch.equal(_logits(q), _logits(second.discrete[latent])):
                raise PairError(_dependent(name, latent))
        other = first.other.items()
        known[shapes] = frozenset(n for n, value in other if not torch.equal(value, second.other[n]))
        return known[shapes]

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        hard = _hard(terms, self.particles)
        signal = Signal.of(hard, beta)
        loss = -signal.total()
        bound = hard.log_weight.mean(0) + hard.log_global.mean() / hard.num_data
        losses = {"all": loss}
        if torch.is_grad_enabled():
            surrogate, moment = self._gradient(terms, signal, Signal.of(terms, beta))
            losses["all"] = loss - surrogate
            if self.learn:
                losses["estimator"] = moment
        return Objective(bound.detach(), losses, metrics(hard))

    def _gradient(self, terms: Terms, hard: Signal, each: Signal) -> tuple[Tensor, Tensor]:
        """(of value zero, with the gradient of E f through the logits; the second moment of single draws of
        that gradient in a datum's own logits: as the mean never changes, it falls like the variance)."""
        sites = _companions(terms)
        soft, again = self._control(sites, each)
        leaves = [site.noise.logits for site in sites]
        # In units of the mean over the data, as `Signal.at` is.
        gap = (soft.total() - again.total()) * self.particles
        pulls = torch.autograd.grad(
            gap, leaves, create_graph=self.learn, retain_graph=True, allow_unused=True
        )
        surrogate, moment = terms.like.new_zeros(()), terms.like.new_zeros(())
        for site, pull in zip(sites, pulls, strict=True):
            value, judged = _blocks(site.value)[0], hard.at(site).detach() - again.at(site)
            slope = spread(judged, value, len(site.q.event_shape)) * (value - self._probs(site))
            slope = slope if pull is None else slope + pull
            surrogate = surrogate + (slope.detach() * _blocks(_logits(site.q))[0]).sum() / self.particles
            rows = 1 if site.kind == "global" else terms.rows
            moment = moment + slope.square().sum() * rows / self.particles
        return surrogate - surrogate.detach(), moment

    def _control(self, sites: list[Site], each: Signal) -> tuple[Signal, Signal]:
        """The control variate at z and at z~."""
        _, soft, again = (
            Signal(self.scaling * local, self.scaling * outside, self.scaling * shared)
            for local, outside, shared in zip(
                _blocks(each.local), _blocks(each.outside), _blocks(each.shared), strict=True
            )
        )
        return soft, again

    @staticmethod
    def _probs(site: Site) -> Tensor:
        """The mean of b, without a gradient."""
        logits = site.noise.logits.detach()
        return logits.sigmoid() if site.noise.kind == "bernoulli" else logits.softmax(-1)


def drawn_again(logits: Tensor, value: Tensor, kind: str) -> Tensor:
    """z~ ~ p(z | b), the perturbed logits given the discrete value that they stand for, differentiable in the
    (normalized) logits a. With s = 2 b - 1, and v, E uniform and standard exponential:

        z~   = s log((1 + v exp(s a)) / (1 - v))                 (Bernoulli)
        z~_c = -log(E_c exp(-a_c) [b_c = 0] + E_b)               (OneHotCategorical, E_b that of the value)
    """
    eps = torch.finfo(logits.dtype).eps
    v = torch.rand_like(logits).clamp(torch.finfo(logits.dtype).tiny, 1 - eps)
    if kind == "bernoulli":
        sign = 2 * value - 1
        return sign * (softplus(sign * logits + v.log()) - torch.log1p(-v))
    log_e = (-v.log()).log()
    own = (log_e * value).sum(-1, keepdim=True)
    return -torch.where(value > 0, log_e, torch.logaddexp(log_e - logits, own))


class _Drawing:
    """Draws each discrete latent three times over, and everything else once for all three."""

    def __init__(
        self, draws: int, temperature: Tensor, given: frozenset[str], chosen: Draw | None, name: str
    ):
        self.draws, self.temperature, self.chosen, self.name = draws, temperature, chosen, name
        self.given = given
        self.leaves: list[Tensor] = []

    def draw(self, name: str, q: Any) -> Drawn:
        made = self.chosen(name, q) if self.chosen is not None else None
        if made is None and not q.has_rsample:
            return self._three(name, q)
        made = made or Drawn(q(), "reparameterized")
        if _reaches(made.value, self.leaves):
            return made  # it is drawn given a discrete latent, and follows each of the three
        if name in self.given and torch.is_grad_enabled():
            raise PairError(
                f"{self.name} differentiates {name!r} through the discrete latent before it, by which the "
                "guide compares or indexes: compute with its value, as in b * u + (1 - b) * v, or use disarm"
            )
        return dataclasses.replace(made, value=_one_for_all(made.value))

    def _three(self, name: str, q: Any) -> Drawn:
        kind = kind_of(q, name)
        attached = _logits(q)
        if _reaches(attached, self.leaves):
            raise PairError(_dependent(self.name, name))
        leaf = _blocks(attached)[0].detach().requires_grad_(torch.is_grad_enabled())
        logits = leaf if kind == "bernoulli" else leaf.log_softmax(-1)
        perturbed = logits + noise_like(logits, kind)
        value = harden(perturbed.detach(), kind)
        again = drawn_again(logits, value, kind)
        soft = [soften(z, kind, self.temperature) for z in (perturbed, again)]
        self.leaves.append(leaf)
        noise = Companions(kind, leaf, perturbed, again)
        return Drawn(torch.cat([value, *soft]), "relaxed", noise=noise)


def _blocks(value: Tensor) -> Tensor:
    """(3 n, ...) as (3, n, ...)."""
    return value.reshape(BLOCKS, -1, *value.shape[1:])


def _one_for_all(value: Tensor) -> Tensor:
    blocks = _blocks(value)
    return blocks[:1].expand_as(blocks).reshape(value.shape)


def _companions(terms: Terms) -> list[Site]:
    return [site for site in terms.sites.values() if isinstance(site.noise, Companions)]


def _hard(terms: Terms, draws: int) -> Terms:
    """The terms of the hard draws alone."""
    sites = {
        name: dataclasses.replace(
            site,
            log_p=site.log_p[:draws],
            log_q=None if site.log_q is None else site.log_q[:draws],
            law=None if site.law is None else site.law[:draws],
            how="score" if isinstance(site.noise, Companions) else site.how,
        )
        for name, site in terms.sites.items()
    }
    return dataclasses.replace(terms, sites=sites, particles=draws)


def _logits(q: Any) -> Tensor:
    return innermost(q).logits  # type: ignore[attr-defined]


def _reaches(value: Tensor, wanted: list[Tensor]) -> bool:
    """Whether `value` was computed from a leaf among `wanted`."""
    among = {id(leaf) for leaf in wanted}
    return any(id(leaf) in among for leaf in graph_leaves([value]))


def _dependent(estimator: str, latent: str) -> str:
    return (
        f"{estimator} cannot draw {latent!r} given another discrete latent: use vimco or elbo, or disarm for "
        "Bernoulli layers"
    )

"""Exact expectations: an estimator run on every joint draw of the guide, each with its probability.

A discrete latent's draws are its states. A Gaussian latent's noise is taken from a few points of equal
probability instead of N(0, 1): no identity between a value and its gradient needs more than that.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.drawing import Drawn
from ppvae.estimators import Estimator
from ppvae.estimators.base import Functional
from ppvae.estimators.gradients import group_gradients
from ppvae.terms import Terms


@dataclass
class Noise:
    """Standardized noise of a Gaussian latent: the draw is loc + scale * points."""

    points: Tensor

    def __len__(self) -> int:
        return len(self.points)


Support = Tensor | Noise


class Given:
    """A built pair whose guide's latents are given instead of drawn: particles leftmost, as the guide has
    them."""

    def __init__(self, built: Built, values: dict[str, Support]):
        self.built, self.values = built, values

    @property
    def enumerated(self) -> tuple[str, ...]:
        return self.built.enumerated

    def score(self, batch, particles=1, *, enumerated=None, draw=None, leaves=False) -> Terms:
        def given(name: str, q: Any) -> Drawn | None:
            value = self.values.get(name)
            if value is None:
                return None if draw is None else draw(name, q)
            if isinstance(value, Noise):
                return Drawn(q.mean + q.stddev * value.points, "reparameterized")
            assert value.shape == q.batch_shape + q.event_shape, (name, value.shape, q.batch_shape)
            return Drawn(value, "score")

        return self.built.score(batch, particles, enumerated=enumerated, draw=given, leaves=leaves)


def every_draw(particles: int, rows: int, **supports: Support):
    """Every joint draw of K particles by B data: {site: (K, B) + event}, without the K where K = 1.

    A support has the values of one draw of one particle, (states,) + event.
    """
    lead = (particles, rows) if particles > 1 else (rows,)
    each = [itertools.product(range(len(s)), repeat=particles * rows) for s in supports.values()]
    for picks in itertools.product(*(list(p) for p in each)):
        values: dict[str, Support] = {}
        for (name, support), pick in zip(supports.items(), picks, strict=True):
            table = support.points if isinstance(support, Noise) else support
            value = table[torch.tensor(pick)].reshape(*lead, *table.shape[1:])
            value = value.to(torch.get_default_dtype()) if value.is_floating_point() else value
            values[name] = Noise(value) if isinstance(support, Noise) else value
        yield values


def probability(terms: Terms, supports: dict[str, Support]) -> Tensor:
    """Of this draw, differentiable in the guide."""
    log_q = terms.like.new_zeros(())
    for name, support in supports.items():
        if isinstance(support, Noise):
            log_q = log_q - terms.particles * terms.rows * math.log(len(support))
        else:
            log_q = log_q + torch.as_tensor(terms.sites[name].law).sum()
    return log_q.exp()


def truth(
    functional: Functional, built: Built, batch: dict[str, Tensor], particles: int, **supports: Support
) -> tuple[Tensor, dict[str, Tensor]]:
    """(E[functional of the log-weights] per datum, the gradient of minus its mean), no estimator involved."""
    rows = len(next(iter(batch.values())))
    value = torch.zeros(rows)
    for values in every_draw(particles, rows, **supports):
        terms = Given(built, values).score(batch, particles, enumerated=built.enumerated)
        value = value + probability(terms, supports) * functional(terms.log_weight)
    named = dict(built.named_parameters())
    grads = torch.autograd.grad(-value.mean(), list(named.values()), allow_unused=True)
    found = {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), grads, strict=True)
    }
    return value.detach(), found


@dataclass
class Moments:
    """What an estimator has in the mean over every draw."""

    bound: Tensor
    gradient: dict[str, Tensor]
    variance: dict[str, Tensor]


def moments(estimator: Estimator, built: Built, batch: dict[str, Tensor], **supports: Support) -> Moments:
    """Exact mean and variance; what one draw teaches an estimator's buffers does not reach the next."""
    estimator.prepare(built, batch)
    rows = len(next(iter(batch.values())))
    first: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in built.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in first.items()}
    named = {id(p): name for name, p in built.named_parameters()}
    bound, total = torch.zeros(rows), torch.zeros(())
    state = {name: value.clone() for name, value in estimator.state_dict().items()}
    for values in every_draw(estimator.particles, rows, **supports):
        estimator.load_state_dict(state)
        objective, terms = estimator.scored(Given(built, values), built.inputs(batch), {})
        weight = probability(terms, supports).detach()
        total = total + weight
        if objective.bound is not None:
            bound = bound + weight * objective.bound
        for p, g in group_gradients(objective, built, estimator):
            if id(p) in named:
                first[named[id(p)]] += weight * g
                second[named[id(p)]] += weight * g**2
    torch.testing.assert_close(total, torch.ones(()), rtol=1e-9, atol=1e-9)
    estimator.load_state_dict(state)
    return Moments(bound, first, {name: second[name] - first[name] ** 2 for name in first})


def assert_unbiased(
    estimator: Estimator, built: Built, batch: dict[str, Tensor], tolerance: float = 1e-9, **supports: Support
) -> Moments:
    """The mean of bound and gradient are those of the estimator's one target."""
    (functional,) = set(estimator.targets().values())
    value, wanted = truth(functional, built, batch, estimator.particles, **supports)
    found = moments(estimator, built, batch, **supports)
    torch.testing.assert_close(found.bound, value, rtol=tolerance, atol=tolerance)
    for name, gradient in found.gradient.items():
        torch.testing.assert_close(
            gradient, wanted[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert sum(g.abs().sum() for g in wanted.values()) > 0.01
    return found

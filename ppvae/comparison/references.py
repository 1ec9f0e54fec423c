"""The gradient that an estimator should have on average: exact where it can be had, else by many repeats.

What an estimator is held against is its own target, the functional of the log-weights whose mean it says it
climbs (`Estimator.targets`): a bound with 50 particles is not held against the elbo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.errors import PairError
from ppvae.estimators import ELBO, ESTIMATORS, Estimator, Objective
from ppvae.estimators.base import Functional, Knobs
from ppvae.estimators.functionals import log_mean_exp, mean
from ppvae.estimators.gradients import gradients, group_gradients
from ppvae.terms import Terms

Gradient = dict[str, Tensor]
"""By optimizer group, the gradient as one vector."""

DRAWS = 16
"""Draws per datum of one repeat of a reference, at least: its own noise is then the smaller part."""


@dataclass(frozen=True)
class Target:
    """The mean of a functional of K log-weights: what gradients are to climb."""

    key: str
    """Equal for equal functionals of as many particles."""
    label: str
    functional: Functional
    particles: int


def target_of(functional: Functional, particles: int, owner: str) -> Target:
    """The target with its name where it is the elbo or the importance-weighted bound.

    Functionals are told apart by their values on one fixed set of weights.
    """
    generator = torch.Generator().manual_seed(0)
    log_weight = torch.randn(particles, 3, generator=generator, dtype=torch.float64)
    value = functional(log_weight)
    if torch.allclose(value, mean(log_weight), rtol=1e-9, atol=1e-9):
        return Target("elbo", "elbo", mean, 1)
    if torch.allclose(value, log_mean_exp(log_weight), rtol=1e-9, atol=1e-9):
        label = f"importance-weighted bound, K = {particles}"
        return Target(label, label, log_mean_exp, particles)
    key = f"K = {particles}: {value.tolist()}"
    return Target(key, f"the functional that {owner} names, K = {particles}", functional, particles)


def flat_gradients(built: Built, found: list[tuple[Any, Tensor]]) -> Gradient:
    """One vector a group; zeros where the loss does not reach a parameter."""
    by_parameter = {id(parameter): gradient for parameter, gradient in found}
    return {
        group: torch.cat(
            [by_parameter.get(id(p), torch.zeros_like(p)).detach().flatten() for p in members.values()]
        )
        for group, members in built.groups().items()
    }


@dataclass(frozen=True)
class Reference:
    """A truth, or what stands for it."""

    label: str
    """What it is, in words."""
    gradient: Callable[[], Gradient]
    """One repeat; the same each time if it is exact."""
    exact: bool


def reference_for(target: Target, built: Built, batch: Mapping[str, Tensor]) -> Reference | None:
    """The best truth that there is for a target: closed form, enumeration, or an average of many draws.

    None where no unbiased estimator of the target is at hand.
    """
    if target.key == "elbo":
        found = _closed_form(built, batch) or _enumerated(built, batch)
        if found is not None:
            return found
    with torch.no_grad():
        terms = built.score(batch)
    if terms.has_global or terms.scaled or terms.expected:
        # What lies outside the data plate is part of the elbo, and of no functional of the weights.
        averaged: Estimator | None = ELBO(particles=DRAWS) if target.key == "elbo" else None
    else:
        replicates = max(2, math.ceil(DRAWS / target.particles))
        averaged = Plain(target.functional, target.particles, replicates)
    if averaged is None:
        return None
    return Reference(
        f"estimated by {averaged.particles} draws a repeat",
        lambda: _gradient(averaged, built, batch),
        exact=False,
    )


def _gradient(estimator: Estimator, built: Built, batch: Mapping[str, Tensor]) -> Gradient:
    return flat_gradients(built, group_gradients(estimator.estimate(built, batch), built, estimator))


def _closed_form(built: Built, batch: Mapping[str, Tensor]) -> Reference | None:
    exact = getattr(built.pair, "elbo", None)
    if exact is None:
        return None

    def gradient() -> Gradient:
        with built.local():
            loss = -exact(built.model, built.guide, built.inputs(batch)).mean()
        parameters = [p for members in built.groups().values() for p in members.values()]
        found = zip(parameters, gradients(loss, parameters), strict=True)
        return flat_gradients(built, [(p, g) for p, g in found if g is not None])

    return Reference("exact in closed form", gradient, exact=True)


def _enumerated(built: Built, batch: Mapping[str, Tensor]) -> Reference | None:
    """Every value of every latent summed over; None where there are too many, or some are continuous."""
    if "enumeration" not in ESTIMATORS or not built.pair.discrete:
        return None
    estimator = ESTIMATORS["enumeration"]()
    try:
        first, second = (_gradient(estimator, built, batch) for _ in range(2))
    except PairError:
        return None
    if any(not torch.equal(first[group], second[group]) for group in first):
        return None  # something is still drawn
    return Reference("exact by enumeration", lambda: first, exact=True)


class Plain(Estimator):
    """The mean of any functional f of K log-weights, by M independent sets of K draws and no trick at all.

    Unbiased for every f: latents are differentiated through their draws where they can be, and by the score
    function where not, each set with the mean of the other sets' values as its baseline.
    """

    def __init__(self, functional: Functional, particles: int, replicates: int):
        super().__init__(particles * replicates)
        self.functional, self.replicates = functional, replicates

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        shape = (self.replicates, self.particles // self.replicates)
        sets = terms.log_weight.unflatten(0, shape)
        values = torch.stack([self.functional(weights) for weights in sets])
        loss = -values.mean()
        score = [site for site in terms.sites.values() if site.how == "score"]
        drawn = [site.law for site in score if site.law is not None]
        if drawn:
            log_q = torch.stack(drawn).sum(0).unflatten(0, shape).sum(1)
            others = (values.sum(0) - values) / (self.replicates - 1)
            signal = (values - others).detach()
            loss = loss - (signal * (log_q - log_q.detach())).mean()
        return Objective(None, {"all": loss})

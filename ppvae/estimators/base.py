"""What an estimator is: from the terms of a batch to a bound and to what is differentiated.

To write one, subclass `Estimator`, say what it `needs`, and define `objective(terms, knobs)`. All else follows: it
trains any pair by `fit(pair, estimator=Mine())`, `Mine()(built)(batch)` is its loss as a module, and `as_pyro` makes it
the `loss=` of a stock `pyro.infer.SVI`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.errors import PairError
from ppvae.terms import Terms

Knobs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Needs:
    """What an estimator asks of a pair; what is not met is refused with a line, never computed wrongly."""

    reparameterized: bool = False
    """Every sampled latent must be reparameterized."""
    weights: bool = False
    """The weights w enter nonlinearly: no global latents, no scales, no `bound` sites, no sites summed out in
    the guide."""


@dataclass
class Objective:
    """What an estimator makes of a batch."""

    bound: Tensor | None
    """Per datum, (B,), in nats, higher is better; None where there is no bound."""
    losses: dict[str, Tensor]
    """What is differentiated, a scalar in nats per datum by optimizer group; `all` stands for every group that has
    no loss of its own."""


class Estimator(nn.Module):
    """Base of all estimators. State that must survive (baselines, averages) goes into buffers and parameters."""

    needs = Needs()

    def __init__(self, particles: int = 1):
        super().__init__()
        if particles < 1:
            raise ValueError(f"particles={particles}: at least one draw per datum is needed")
        self.particles = particles

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        """The bound and the losses of one batch. No host synchronization in here."""
        raise NotImplementedError

    def estimate(self, built: Any, batch: Mapping[str, Tensor], knobs: Knobs | None = None) -> Objective:
        """Score the batch under a built pair, refuse what cannot be right, and add the pair's penalties."""
        terms = built.score(batch, self.particles)
        self.refuse(terms)
        return with_penalties(self.objective(terms, knobs or {}), terms, further=frozenset(built.pair.groups))

    def refuse(self, terms: Terms) -> None:
        """Raise PairError where the terms do not meet `needs`."""
        name = type(self).__name__
        if self.needs.reparameterized:
            for site in terms.sites.values():
                if site.q is not None and site.how == "score":
                    raise PairError(
                        f"{name} needs a reparameterized guide, but {site.name!r} is drawn from a "
                        f"{type(site.q).__name__}: use elbo, or enumerate it with Pair(discrete={{{site.name!r}: "
                        "'enumerate'}})"
                    )
        if not self.needs.weights:
            return
        if terms.has_global and not terms.joint:
            raise PairError(
                f"{name} weighs each datum by itself, which global latents do not allow (their weights are joint over "
                "all data): use elbo"
            )
        if terms.scaled:
            raise PairError(
                f"{name} cannot take the scale of site {terms.scaled[0]!r}: inside the logsumexp it gives a Renyi bound "
                "of another order, which may exceed the evidence; write the model unscaled, or use elbo"
            )
        if terms.expected:
            raise PairError(
                f"{name} cannot take {terms.expected[0]!r}, which the guide enumerates: leave it out of the guide, so "
                "that the model sums it out, or use elbo"
            )
        for site in terms.of("bound"):
            raise PairError(f"{name} cannot take {site.name!r}, an estimate of a bound and no log-weight: use elbo")

    def forward(self, model: Any, guide: Any = None, **options: Any) -> nn.Module:
        """A module whose call on a batch is the loss: `estimator(built)(batch)` or `estimator(model, guide)(x)`."""
        from ppvae.estimators.loss import Loss

        return Loss(self, model, guide, **options)

    def as_pyro(self, plates: int = 1, **options: Any) -> Any:
        """This estimator as the `loss=` of a stock `pyro.infer.SVI`, scaled as Pyro scales: times the rows."""
        from ppvae.estimators.pyro_bridge import AsPyro

        return AsPyro(self, plates=plates, **options)


def with_penalties(objective: Objective, terms: Terms, further: frozenset[str] = frozenset()) -> Objective:
    """Add each penalty to the losses of its group; one without a group goes to all but the `further` groups."""
    if not terms.penalties:
        return objective
    losses = dict(objective.losses)
    for penalty in terms.penalties.values():
        targets = [penalty.group] if penalty.group else [g for g in losses if g not in further]
        for group in targets:
            losses[group] = losses.get(group, torch.zeros_like(penalty.value)) + penalty.value
    return Objective(objective.bound, losses)


def knob(knobs: Knobs, name: str, default: float) -> Tensor | float:
    """A scheduled value where the trainer has one, else the default."""
    return knobs.get(name, default)

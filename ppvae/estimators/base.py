"""What an estimator is: from the terms of a batch to a bound and to what is differentiated.

To write one, subclass `Estimator`, say what it `needs`, and define `objective(terms, knobs)`. All else
follows: it trains any pair by `fit(pair, estimator=Mine())`, `Mine()(built)(batch)` is its loss as a module,
and `as_pyro` makes it the `loss=` of a stock `pyro.infer.SVI`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.errors import PairError, nearest
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
    """What is differentiated, a scalar in nats per datum by optimizer group; `all` stands for every group
    that has no loss of its own."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """What is logged beside the losses: detached scalars on the device, in nats per datum."""


class Estimator(nn.Module):
    """Base of all estimators. State that must survive (baselines, averages) goes into buffers and
    parameters."""

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
        objective = with_penalties(
            self.objective(terms, knobs or {}), terms, further=frozenset(built.pair.groups)
        )
        return dataclasses.replace(objective, metrics=metrics(terms))

    def refuse(self, terms: Terms) -> None:
        """Raise PairError where the terms do not meet `needs`."""
        name = type(self).__name__
        if self.needs.reparameterized:
            for site in terms.sites.values():
                if site.q is not None and site.how == "score":
                    raise PairError(
                        f"{name} needs a reparameterized guide, but {site.name!r} is drawn from a "
                        f"{type(site.q).__name__}: use elbo, or enumerate it with "
                        f"Pair(discrete={{{site.name!r}: 'enumerate'}})"
                    )
        obstacle = weights_obstacle(terms) if self.needs.weights else None
        if obstacle:
            raise PairError(f"{name} {obstacle}: use elbo")

    def forward(self, model: Any, guide: Any = None, **options: Any) -> nn.Module:
        """A module whose call on a batch is the loss: `estimator(built)(batch)` or `estimator(model,
        guide)(x)`."""
        from ppvae.estimators.loss import Loss

        return Loss(self, model, guide, **options)

    def as_pyro(self, plates: int = 1, **options: Any) -> Any:
        """This estimator as the `loss=` of a stock `pyro.infer.SVI`, scaled as Pyro scales: times the
        rows."""
        from ppvae.estimators.pyro_bridge import AsPyro

        return AsPyro(self, plates=plates, **options)


def with_penalties(objective: Objective, terms: Terms, further: frozenset[str] = frozenset()) -> Objective:
    """Add each penalty to the losses of its group; one without a group goes to all but the `further`
    groups."""
    if not terms.penalties:
        return objective
    losses = dict(objective.losses)
    groups = {"all", "model", "guide", "estimator", *further}
    for name, penalty in terms.penalties.items():
        if penalty.group not in (None, *groups):
            raise PairError(
                f"penalty {name!r} is for the group {penalty.group!r}{nearest(str(penalty.group), groups)} "
                "Declare it in Pair(groups=)"
            )
        if penalty.group and penalty.group not in {*losses, *further} and "all" in losses:
            losses[penalty.group] = losses["all"]  # which no longer serves a group that has a loss of its own
        targets = [penalty.group] if penalty.group else [g for g in losses if g not in further]
        for group in targets:
            losses[group] = losses.get(group, torch.zeros_like(penalty.value)) + penalty.value
    return dataclasses.replace(objective, losses=losses)


def weights_obstacle(terms: Terms) -> str | None:
    """Why the importance weights of these terms are not one number per datum and draw; None where they
    are."""
    if terms.has_global and not terms.joint:
        return "weighs each datum by itself, but with global latents the weights are joint over all data"
    if terms.scaled:
        return (
            f"cannot take the scale of site {terms.scaled[0]!r}: inside the logsumexp it gives a Renyi "
            "bound of another order, which may exceed the evidence; write the model unscaled"
        )
    if terms.expected:
        return (
            f"cannot take {terms.expected[0]!r}, which the guide enumerates: leave it out of the guide, so "
            "that the model sums it out"
        )
    if bounds := terms.of("bound"):
        return f"cannot take {bounds[0].name!r}, which is an estimate of a bound and no log-weight"
    return None


def metrics(terms: Terms) -> dict[str, Tensor]:
    """elbo (beta = 1, no free bits), rate, distortion and penalties of a batch, in nats per datum."""
    log_likelihood = terms.log_likelihood.detach().mean()
    outside = terms.log_global.detach().mean() / terms.num_data
    ratio = terms.log_ratio.detach().mean()
    found = {"elbo": log_likelihood + ratio + outside, "rate": -ratio, "distortion": -log_likelihood}
    if terms.has_global:
        found["global"] = outside
    found |= {f"penalty/{name}": penalty.value.detach() for name, penalty in terms.penalties.items()}
    return found


def knob(knobs: Knobs, name: str, default: float) -> Tensor | float:
    """A scheduled value where the trainer has one, else the default."""
    return knobs.get(name, default)

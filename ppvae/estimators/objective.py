"""What an estimator makes of a batch: a bound to report, losses to differentiate, numbers to log."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppvae.errors import EstimatorError, PairError, nearest
from ppvae.terms import Terms


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


def well_formed(found: Any, name: str) -> Objective:
    """What an estimator called `name` returned, seen to be an objective; no number of it is read.

    Raises:
        EstimatorError: it is none, or a loss or a metric is no scalar.
    """
    if not isinstance(found, Objective) or not isinstance(found.losses, dict):
        raise EstimatorError(
            f"{name}.objective returned a {type(found).__name__}, or its losses are no dictionary: "
            'return Objective(bound, {"all": loss})'
        )
    for kind, values in (("loss", found.losses), ("metric", found.metrics)):
        for key, value in values.items():
            if not isinstance(value, Tensor) or value.dim():
                what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise EstimatorError(
                    f"the {kind} {key!r} of {name} is no scalar tensor ({what}): take its mean over the batch"
                )
    return found


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

"""What an estimator is: from the terms of a batch to a bound and to what is differentiated.

To write one, subclass `Estimator`, say what it `needs`, and define `objective(terms, knobs)`. All else
follows: it trains any pair by `fit(pair, estimator=Mine())`, `Mine()(built)(batch)` is its loss as a module,
and `AsPyro(Mine())` is the `loss=` of a stock `pyro.infer.SVI`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ppvae.built import Built
from ppvae.errors import PairError
from ppvae.estimators.gradients import group_gradients, with_gradients
from ppvae.estimators.objective import Objective, metrics, with_penalties
from ppvae.pair import Pair
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
        """The loss as a module: `estimator(built)(batch)` or `estimator(model, guide)(x)` is its value."""
        return Loss(self, model, guide, **options)


class Loss(nn.Module):
    """`Loss(estimator, built)(batch)` or `Loss(estimator, model, guide)(x)`: the loss in nats per datum.

    Its gradient is the estimator's for every parameter, also where several optimizer groups have losses of
    their own.
    """

    def __init__(self, estimator: Estimator, model: Any, guide: Any = None, **pair: Any):
        super().__init__()
        self.estimator = estimator
        if not isinstance(model, Built):
            described = Pair(model=type(model), guide=type(guide), **pair)
            model = Built(described, model, guide, {}, None)
        self.built = model

    def forward(self, *args: Any, **batch: Any) -> Tensor:
        if len(args) == 1 and isinstance(args[0], Mapping):
            batch = {**args[0], **batch}
        elif args:
            model = self.built.model
            names = list(
                inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
            )
            batch = {**dict(zip(names, args, strict=False)), **batch}
        objective = self.estimator.estimate(self.built, batch)
        if set(objective.losses) == {"all"}:
            return objective.losses["all"]
        gradients = group_gradients(objective, self.built, self.estimator)
        losses = objective.losses
        value = losses["all"] if "all" in losses else sum(loss.detach() for loss in losses.values())
        return with_gradients(value, gradients)  # type: ignore[arg-type]


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


def knob(knobs: Knobs, name: str, default: float) -> Tensor | float:
    """A scheduled value where the trainer has one, else the default."""
    return knobs.get(name, default)

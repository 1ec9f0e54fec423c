"""What an estimator is: from the terms of a batch to a bound and to what is differentiated.

To write one, subclass `Estimator`, say what it `needs` and `claims`, and define `objective(terms, knobs)`.
All else follows: it trains any pair by `fit(pair, estimator=Mine())` or `--estimator file.py:Mine`,
`Mine()(built)(batch)` is its loss as a module, `AsPyro(Mine())` is the `loss=` of a stock `pyro.infer.SVI`,
and `ppvae check file.py:Mine` holds its claims against pairs whose truth is known.

One that draws the latents in its own way also defines `drawing` (antithetic or relaxed draws) or `score`
(dreams, several passes).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from ppvae.built import Built
from ppvae.drawing import Draw
from ppvae.errors import EstimatorError, PairError, UsageError
from ppvae.estimators import sites as per_site
from ppvae.estimators.gradients import group_gradients, with_gradients
from ppvae.estimators.objective import Objective, metrics, well_formed, with_penalties
from ppvae.estimators.paths import with_penalty_paths
from ppvae.pair import Pair
from ppvae.terms import Terms
from ppvae.wrapped import innermost

Knobs = Mapping[str, Tensor]
Functional = Callable[[Tensor], Tensor]
"""From log-weights (K, B) to a number per datum (B,)."""


@dataclass(frozen=True)
class Needs:
    """What an estimator asks of a pair; what is not met is refused with a line, never computed wrongly."""

    reparameterized: bool = False
    """Every sampled latent must be reparameterized."""
    weights: bool = False
    """The weights w enter nonlinearly: no global latents, no scales, no `bound` sites, no sites summed out in
    the guide."""
    leaves: bool = False
    """Latents are scored as leaves of the graph (`Site.path`), for path derivatives and detached draws."""


@dataclass(frozen=True)
class Claims:
    """What an estimator promises; `ppvae check file.py:Estimator` holds it against exact truths."""

    bound: Literal["lower", "upper"] | None = None
    """On which side of log p(x) the mean of the reported bound lies; None: no bound."""
    biased: tuple[str, ...] = ()
    """Groups (`model`, `guide`) whose gradient is knowingly not that of the mean of their target."""

    def __post_init__(self) -> None:
        if self.bound not in (None, "lower", "upper"):
            raise UsageError(f"Claims(bound={self.bound!r}): a bound is 'lower', 'upper' or None")
        for group in self.biased:
            if group not in ("model", "guide"):
                raise UsageError(f"Claims(biased=...) names {group!r}: name 'model', 'guide', or both")


@runtime_checkable
class Scorer(Protocol):
    """What scores a batch: a built pair, or the model and guide that a stock SVI was given."""

    @property
    def enumerated(self) -> tuple[str, ...]: ...

    def score(
        self,
        batch: Mapping[str, Tensor],
        particles: int = 1,
        *,
        enumerated: tuple[str, ...] | None = None,
        draw: Draw | None = None,
        leaves: bool = False,
    ) -> Terms: ...


class Estimator(nn.Module):
    """Base of all estimators. State that must survive (baselines, averages) goes into buffers and
    parameters.

    Args:
        particles: draws of the guide per datum, K.
        sites: how single latents are handled, by name (`ppvae.estimators.sites`).
    """

    needs = Needs()
    claims = Claims()

    def __init__(self, particles: int = 1, sites: Mapping[str, str] | None = None):
        super().__init__()
        if not isinstance(particles, int) or particles < 1:
            raise ValueError(f"particles={particles}: give a whole number of draws per datum, 1 or more")
        self.particles = particles
        self.sites = per_site.checked(sites)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        """The bound and the losses of one batch. No host synchronization in here."""
        raise EstimatorError(
            f"{type(self).__name__} defines no objective(terms, knobs): write it, see {__name__}"
        )

    def targets(self) -> Mapping[str, Functional]:
        """The functionals of the log-weights whose means are estimated: by `bound`, the reported value, and
        by what the gradients of `model` and `guide` climb. Empty: of none.

        Read with default options (beta = 1, no free bits); it is what the estimator is checked against.
        """
        return {}

    def promise(self) -> tuple[Claims, dict[str, Functional]]:
        """`claims` and `targets()` as they stand with the choices in `sites`.

        A relaxed draw is scored where the model never draws: what is reported is no bound, and both gradients
        are biased. A straight-through draw is the model's own, and biases the guide's gradient alone.
        """
        bound, biased, targets = self.claims.bound, set(self.claims.biased), dict(self.targets())
        if "straight_through" in self.sites.values():
            biased |= {"guide"}
        if "gumbel" in self.sites.values():
            bound, biased = None, {"model", "guide"}
            targets.pop("bound", None)
        return Claims(bound, tuple(group for group in ("model", "guide") if group in biased)), targets

    def score(self, scorer: Scorer, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        """Draw the latents and score them."""
        return scorer.score(
            batch,
            self.particles,
            enumerated=per_site.enumerated(self.sites, scorer.enumerated),
            draw=self.drawing(knobs),
            leaves=self.needs.leaves,
        )

    def drawing(self, knobs: Knobs) -> Draw | None:
        """How the latents are drawn; None: by their own distributions."""
        own = getattr(self, "temperature", per_site.TEMPERATURE)
        return per_site.drawing(self.sites, knob(knobs, "temperature", own))

    def schedule(self, step: int) -> dict[str, float]:
        """Knobs that this estimator moves by itself in training, such as a temperature, at step `step`."""
        return {}

    def prepare(self, built: Built, batch: Mapping[str, Tensor]) -> None:
        """Make what depends on the pair, such as a baseline's net, from one batch: called before training,
        and before any estimate where that was not done. What is prepared already stays as it is."""

    def estimate(self, built: Any, batch: Mapping[str, Tensor], knobs: Knobs | None = None) -> Objective:
        """Score the batch under a built pair, refuse what cannot be right, and add the pair's penalties."""
        self.prepare(built, batch)
        objective, terms = self.scored(built, batch, knobs or {}, further=frozenset(built.pair.groups))
        return dataclasses.replace(objective, metrics={**metrics(terms), **objective.metrics})

    def scored(
        self, scorer: Scorer, batch: Mapping[str, Any], knobs: Knobs, further: frozenset[str] | None = None
    ) -> tuple[Objective, Terms]:
        """The objective with the penalties in it, and the terms that it was made of."""
        terms = self.score(scorer, batch, knobs)
        if self.needs.leaves:
            terms = with_penalty_paths(terms)
        per_site.refuse_unknown(self.sites, terms)
        self.refuse(terms)
        if further is None:
            further = frozenset(p.group for p in terms.penalties.values() if p.group)
        found = well_formed(self.objective(terms, knobs), type(self).__name__)
        if "gumbel" in self.sites.values():
            found = dataclasses.replace(found, bound=None)  # see `promise`
        return with_penalties(found, terms, further=further), terms

    def refuse(self, terms: Terms) -> None:
        """Raise PairError where the terms do not meet `needs`."""
        name = type(self).__name__
        if self.needs.reparameterized:
            for site in terms.sites.values():
                if site.q is not None and site.how == "score":
                    raise PairError(
                        f"{name} needs a reparameterized guide, but {site.name!r} is drawn from a "
                        f"{type(innermost(site.q)).__name__}: use elbo, vimco or gumbel, or sum it out (the "
                        "estimator enumeration)"
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

"""Draws that belong together, laid out in blocks along the particles: one pass of guide and model for all.

Antithetic pairs and relaxed companions of a draw are particles of one run, so that a step costs no second
pass. Here is what such an estimator must know before it draws: which latents are discrete, and that the
particles do run at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from ppvae.built import mixes_particles
from ppvae.drawing import Draw, Drawn
from ppvae.errors import PairError
from ppvae.estimators.relaxations import kind_of
from ppvae.looking import looking
from ppvae.terms import Site, Terms


@dataclass(frozen=True)
class Signal:
    """What single draws are judged by: log w, apart into what is one datum's and what is shared by all."""

    local: Tensor
    """(K, B), in nats per datum."""
    outside: Tensor
    """(K,): the global part, divided by the number of data."""
    shared: Tensor
    """(K,): of it, what is observed, which may read the latents of every datum."""

    @classmethod
    def of(cls, terms: Terms, beta: Tensor | float) -> Signal:
        """log p(x | z) + beta * (log p(z) - log q(z | x)). The log q of a draw that is not differentiated has
        a gradient of mean zero, which is left out."""
        local, outside = terms.log_likelihood, terms.log_shared
        for site in terms.of("local", "bound"):
            local = local + beta * _ratio(site)
        for site in terms.of("global"):
            outside = outside + beta * _ratio(site)
        return cls(local, outside / terms.num_data, terms.log_shared / terms.num_data)

    def total(self) -> Tensor:
        """The mean over draws and data."""
        return self.local.mean() + self.outside.mean()

    def at(self, site: Site) -> Tensor:
        """(K, B) or (K, 1): what a draw of this site adds to the mean over the data."""
        if site.kind == "global":
            return self.local.mean(1, keepdim=True) + self.outside.unsqueeze(1)
        return self.local / self.local.shape[1] + self.shared.unsqueeze(1)


def _ratio(site: Site) -> Tensor:
    detached = site.how == "score" and site.log_q is not None
    return site.log_p - site.log_q.detach() if detached else site.log_ratio  # type: ignore[union-attr]


def spread(signal: Tensor, like: Tensor, event_dim: int) -> Tensor:
    """A (..., S) signal, aligned with the values of a latent whose batch ends in S or in 1."""
    lead, size = signal.shape[:-1], signal.shape[-1]
    between = like.dim() - len(lead) - 1 - event_dim
    return signal.reshape(*lead, *(1,) * between, size, *(1,) * event_dim)


@dataclass(frozen=True)
class Look:
    """What one run on the side showed of the guide's latents, each in its order."""

    discrete: dict[str, Distribution]
    """Those that are drawn without a gradient, by their distributions."""
    other: dict[str, Tensor]
    """A draw of each other one."""


def look(
    scorer: Any, batch: Mapping[str, Any], name: str, *, draw: Draw | None, flip: bool = False, **options: Any
) -> Look:
    """Run the guide once; it takes no random numbers from the caller and is no training step.

    `flip` gives each discrete latent another value than it drew: what is drawn given it then changes.
    `options` are those of `scorer.score`.

    Raises:
        PairError: the guide enumerates, along dimensions that would lie before the particles.
    """
    found = Look({}, {})

    def spy(latent: str, q: Any) -> Drawn:
        made = draw(latent, q) if draw is not None else None
        made = made or Drawn(q(), "reparameterized" if q.has_rsample else "score")
        if made.how != "score" or q.has_rsample:
            found.other[latent] = made.value
            return made
        found.discrete[latent] = q
        return dataclasses.replace(made, value=_flipped(made.value, kind_of(q, latent))) if flip else made

    with looking(scorer):
        terms = scorer.score(batch, 1, draw=spy, **options)
    if terms.expected:
        raise PairError(
            f"{name} cannot take {terms.expected[0]!r}, which the guide enumerates: leave it out of the "
            "guide, so that the model sums it out"
        )
    return found


def _flipped(value: Tensor, kind: str) -> Tensor:
    return 1 - value if kind == "bernoulli" else value.roll(1, -1)


def shapes_of(batch: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What a look is valid for: the same guide under a batch of the same shapes."""
    return tuple((name, getattr(value, "shape", None)) for name, value in batch.items())


def refuse_one_by_one(scorer: Any, name: str) -> None:
    """Raise PairError where the particles run one after another: what belongs together would be torn
    apart."""
    at_once = getattr(scorer, "vectorize", None)
    if at_once is None:
        at_once = not mixes_particles(scorer.model, scorer.guide)
    if not at_once:
        raise PairError(
            f"{name} draws particles that belong together, but here they run one after another: take out the "
            "BatchNorm, set Pair(vectorize=True), or use elbo"
        )

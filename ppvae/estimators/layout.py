"""The joint states of several discrete latents, laid out along the particles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ppvae.drawing import Draw, Drawn
from ppvae.errors import PairError
from ppvae.estimators.states import count_states, every_state
from ppvae.terms import Terms


@dataclass(frozen=True)
class Laid:
    """What marks a latent whose states lie along the particles (`Site.noise`)."""

    total: int
    """The joint states of all such latents."""


@dataclass(frozen=True)
class Layout:
    """Which state each particle has: particle k S + s is state s of draw k, the first latent slowest."""

    states: Mapping[str, int]
    """How many states each discrete latent has, in the guide's order."""
    draws: int
    guide: tuple[str, ...]
    """All latents of the guide."""

    @property
    def total(self) -> int:
        return math.prod(self.states.values())

    @property
    def particles(self) -> int:
        return self.draws * self.total

    def fits(self, terms: Terms) -> bool:
        """Whether these are still the discrete latents of the guide, with as many states."""
        open_ = [s for s in terms.sites.values() if isinstance(s.noise, Laid) or s.how == "score"]
        return {s.name: count_states(s.q, s.name) for s in open_} == dict(self.states)

    def draw(self, chosen: Draw | None) -> Draw:
        """The draw of each latent in turn: its states, or one value for all states that agree so far."""
        block = self.total
        """How many particles in a row agree in all that was drawn until now."""
        done: set[str] = set()

        def draw(name: str, q: Any) -> Drawn | None:
            nonlocal block
            if name in done or (self.particles > 1 and q.batch_shape[:1] != (self.particles,)):
                refuse_one_by_one()
            done.add(name)
            if name in self.states:
                if count_states(q, name) != self.states[name]:
                    return None  # which `fits` notices
                block //= self.states[name]
                return Drawn(self._values(q, name, block), "score", noise=Laid(self.total))
            drawn = chosen(name, q) if chosen is not None else None
            if drawn is None:
                return Drawn(_shared(q(), block), "reparameterized") if q.has_rsample else None
            noise = _shared(drawn.noise, block) if isinstance(drawn.noise, Tensor) else drawn.noise
            return Drawn(_shared(drawn.value, block), drawn.how, noise)

        return draw

    def _values(self, q: Any, name: str, block: int) -> Tensor:
        """The state of each particle, of the shape of a draw of q."""
        table = every_state(q, name)
        which = torch.arange(self.particles, device=table.device) // block % len(table)
        inner = (1,) * max(len(q.batch_shape) - 1, 0)
        # With one particle q has no dimension for it.
        shape = (self.particles, *inner, *q.event_shape) if self.particles > 1 else q.event_shape
        return table[which].reshape(shape).expand(q.batch_shape + q.event_shape)


def _shared(value: Tensor, block: int) -> Tensor:
    """The first draw of each block of particles, for the whole block."""
    if block == 1:
        return value
    blocks = value.reshape(-1, block, *value.shape[1:])
    return blocks[:, :1].expand_as(blocks).reshape(value.shape)


def refuse_one_by_one() -> NoReturn:
    raise PairError(
        "enumeration lays all states out in one pass, but a BatchNorm or vectorize=False forbids it: use "
        "elbo or reinforce"
    )

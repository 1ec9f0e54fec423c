"""The pairs whose truth is known: the reference problems, and the registered pairs that say what is exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae import registry
from ppvae.build import build
from ppvae.built import Built
from ppvae.oracles.nodes import MAX_NODES, Unknown, places, reals, states
from ppvae.oracles.problems import PROBLEMS, SCALED, Problem
from ppvae.pair import Pair

ROWS = 3
MAX_PARAMETERS = 500
"""A registered pair with more is left out: each parameter is a comparison."""


@dataclass(frozen=True)
class Oracle:
    """A built pair in double precision, a few data, and whether one of its sites carries a scale."""

    name: str
    built: Built
    batch: dict[str, Tensor]
    scaled: bool = False

    @property
    def rows(self) -> int:
        return len(next(iter(self.batch.values())))

    def copies(self, count: int) -> dict[str, Tensor]:
        """The data, `count` times one after another."""
        return {name: value.repeat(count, *[1] * (value.dim() - 1)) for name, value in self.batch.items()}


@contextmanager
def double() -> Iterator[None]:
    """Inside, what is made is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def oracles() -> list[Oracle]:
    """Every oracle there is."""
    with double():
        made = [problem(p) for p in PROBLEMS]
        made += [problem(p, scaled=True) for p in SCALED]
        names = {oracle.name for oracle in made}
        for name in registry.names():
            pair = registry.find(name)
            if (
                name not in names
                and (pair.elbo is not None or pair.discrete)
                and (known := _registered(pair))
            ):
                made.append(known)
    return made


def problem(given: Problem, scaled: bool = False, **sizes: Any) -> Oracle:
    """A reference problem as an oracle."""
    with double():
        built = build(given.pair, **sizes).double()
    x = torch.tensor(given.x, dtype=torch.float64)
    return Oracle(given.pair.name, built, {"x": x}, scaled)


def named(name: str, **sizes: Any) -> Oracle:
    """The reference problem of that name."""
    found = {p.pair.name: p for p in (*PROBLEMS, *SCALED)}
    return problem(found[name], name in {p.pair.name for p in SCALED}, **sizes)


def _registered(pair: Pair) -> Oracle | None:
    """A registered pair at its default sizes, moved off its start, with data that its own model draws; None
    where that cannot be or is too large."""
    if pair.conditions or len(pair.observed) != 1 or pair.guide is None:
        return None
    with torch.random.fork_rng(devices=[]):
        built = build(pair, seed=0).double()
        parameters = [p for p in built.parameters() if p.requires_grad]
        if sum(p.numel() for p in parameters) > MAX_PARAMETERS:
            return None
        torch.manual_seed(1)
        with torch.no_grad(), built.local():
            for p in parameters:  # at a start such as zero, a wrong gradient could be right
                p.add_(0.1 * torch.randn_like(p))
            drawn = built.run_model(n=ROWS)
    batch = {pair.observed[0]: drawn.detach()}
    return Oracle(pair.name, built, batch) if _is_known(built, batch) else None


def _is_known(built: Built, batch: Mapping[str, Tensor]) -> bool:
    """Whether some expectation is: the ELBO, or all of them because there are few states and no reals."""
    with torch.random.fork_rng(devices=[]):
        try:
            found = places(built, batch)
        except Unknown:
            return built.pair.elbo is not None and not _has_global(built, batch)
    return built.pair.elbo is not None or (not reals(found) and states(found) <= MAX_NODES)


def _has_global(built: Built, batch: Mapping[str, Tensor]) -> bool:
    with torch.no_grad():
        return built.score(batch).has_global

"""Means over a split of everything that one draw per datum tells: elbo, rate, distortion, site by site."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.looking import looking
from ppvae.terms import Terms


@contextmanager
def evaluating(built: Built, seed: int) -> Iterator[None]:
    """No gradients, eval mode, a seed of its own; training flags and random states are put back after."""
    with looking(built, seed), pyro.validation_enabled(False):
        yield


def batches(built: Built, split: Any, rows: int) -> Iterator[dict[str, Tensor]]:
    """The whole split in order, the last, shorter batch included; one empty batch for a pair without data."""
    if split is None:
        yield {}
        return
    for start in range(0, len(split), rows):
        batch = split.batch(torch.arange(start, min(start + rows, len(split)), device=split.device))
        yield {name: value.to(built.device) for name, value in batch.items()}


def mean_terms(built: Built, split: Any, *, seed: int = 0, rows: int = 512) -> dict[str, Any]:
    """`elbo`, `rate`, `distortion`, `rate/<site>`, `distortion/<site>`, each with `<name>_stderr`, in nats
    per datum.

    One draw of the guide per datum; the standard error is that of the mean over the data, None for one datum.
    Global latents enter once, divided by the number of training data N, as in the objective; their one draw
    per batch is no part of the standard error.
    """
    sums = _Sums()
    with evaluating(built, seed):
        for batch in batches(built, split, rows):
            sums.add(per_datum(built.score(batch, 1)))
    return sums.means()


def per_datum(terms: Terms) -> dict[str, Tensor]:
    """Every reported quantity as a vector over the batch, (B,), averaged over particles."""
    outside = terms.log_global.mean() / terms.num_data
    found = {
        "elbo": terms.log_weight.mean(0) + outside,
        "rate": -terms.log_ratio.mean(0),
        "distortion": -terms.log_likelihood.mean(0),
    }
    for site in terms.sites.values():
        if site.kind == "global":
            found[f"rate/{site.name}"] = (-site.log_ratio.mean() / terms.num_data).expand(terms.rows)
        elif site.log_p.dim() == 2:
            word = "distortion" if site.kind == "observed" else "rate"
            found[f"{word}/{site.name}"] = -site.log_ratio.mean(0)
    return found


class _Sums:
    """Sums and sums of squares in float64, about the first batch's mean so that squares do not cancel."""

    def __init__(self):
        self.n = 0
        self.origin: dict[str, Tensor] = {}
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}

    def add(self, vectors: dict[str, Tensor]) -> None:
        for name, vector in vectors.items():
            vector = vector.double()
            origin = self.origin.setdefault(name, vector.mean())
            centred = vector - origin
            self.first[name] = self.first.get(name, 0) + centred.sum()
            self.second[name] = self.second.get(name, 0) + centred.square().sum()
        self.n += len(next(iter(vectors.values())))

    def means(self) -> dict[str, Any]:
        found = {}
        for name, origin in self.origin.items():
            mean = float(self.first[name]) / self.n
            found[name] = float(origin) + mean
            squares = max(0.0, float(self.second[name]) - self.n * mean**2)
            # One datum tells nothing about the error of its own mean.
            found[f"{name}_stderr"] = math.sqrt(squares / (self.n - 1) / self.n) if self.n > 1 else None
        return found

"""Paired differences over seeds, with the interval that so few seeds allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """The mean over n pairs of (value - baseline), and its 95 % interval; no interval from one pair."""

    mean: float
    low: float | None
    high: float | None
    stderr: float | None
    n: int


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """mean +- t(.975, n - 1) sd / sqrt(n) of value - baseline, over the seeds that both have.

    The same seed means the same initial parameters and the same data in the same order, so that what they
    share cancels. Positive: the values are larger. The interval takes the differences for Gaussian. Seeds
    whose difference is not finite are left out. None where the two have no seed in common.
    """
    found = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    found = [difference for difference in found if math.isfinite(difference)]
    n = len(found)
    if n == 0:
        return None
    mean = math.fsum(found) / n
    if n == 1:
        return Difference(mean, None, None, None, 1)
    stderr = math.sqrt(math.fsum((d - mean) ** 2 for d in found) / (n - 1) / n)
    half = t_quantile(0.975, n - 1) * stderr
    return Difference(mean, mean - half, mean + half, stderr, n)


def mean_and_stderr(values: Mapping[int, float]) -> tuple[float | None, float | None, int]:
    """(mean, sd / sqrt(n), n) over seeds; no standard error from one seed."""
    zeros = dict.fromkeys(values, 0.0)
    found = paired_difference(values, zeros)
    return (None, None, 0) if found is None else (found.mean, found.stderr, found.n)


def t_quantile(probability: float, freedom: int) -> float:
    """The t with P(T <= t) = probability > 1/2 for Student's T with that many degrees of freedom."""
    low, high = 0.0, 1.0
    while _below(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if _below(middle, freedom) < probability else (low, middle)
    return 0.5 * (low + high)


def _below(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0: a finite sum, Abramowitz & Stegun (1964), 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for i in range(3 if odd else 2, freedom, 2):
        term *= square * (i - 1) / i
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + 0.5 * inside

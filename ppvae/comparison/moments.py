"""Mean and spread of a stream of vectors, without keeping the vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error; None where one repeat tells nothing of the other."""

    value: float
    stderr: float | None = None


class Moments:
    """Of R independent vectors g_r of P entries: their mean, the trace of their covariance C, and tr C^2.

    Mean and squares follow Welford (1962), in float64. How sure they are is told by differences of
    neighbours, which know nothing of the mean: d = (g_2r - g_(2r-1)) / sqrt 2 has covariance C, so that |d|^2
    is one estimate of tr C, and (d . d')^2 of two such differences one of tr C^2. Memory: six vectors.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0)
        self._squares = torch.zeros(0)
        self._before: Tensor | None = None
        self._difference: Tensor | None = None
        self._traces: list[Tensor] = []
        self._crosses: list[Tensor] = []

    def add(self, vector: Tensor) -> None:
        """Take one more vector, (P,)."""
        vector = vector.double()
        self.count += 1
        if self.count == 1:
            self.mean, self._squares = vector.clone(), torch.zeros_like(vector)
        else:
            off = vector - self.mean
            self.mean += off / self.count
            self._squares += off * (vector - self.mean)
        if self._before is None:
            self._before = vector
            return
        difference = (vector - self._before) / math.sqrt(2.0)
        self._traces.append(difference.square().sum())
        if self._difference is not None:
            self._crosses.append((difference @ self._difference).square())
        self._before, self._difference = None, difference

    @property
    def size(self) -> int:
        """P."""
        return len(self.mean)

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each entry, (P,)."""
        return (self._squares / max(1, self.count - 1)).sqrt()

    @property
    def variance(self) -> Estimate:
        """tr C, with the standard error that the neighbours' differences alone would have: a little large."""
        value = float(self._squares.sum()) / max(1, self.count - 1)
        return Estimate(value, mean_of(self._traces).stderr)

    @property
    def trace_of_square(self) -> float:
        """tr C^2: 2 tr C^2 is the variance of |g - E g|^2 where g is Gaussian."""
        return mean_of(self._crosses).value if self._crosses else 0.0


def mean_of(numbers: list[Tensor]) -> Estimate:
    """The mean of scalars and its standard error; NaN of none."""
    if not numbers:
        return Estimate(math.nan)
    values = torch.stack(numbers).double()
    if len(values) == 1:
        return Estimate(float(values[0]))
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))

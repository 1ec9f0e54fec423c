"""A number for each datum, (n,), said in few: mean and standard error, quantiles, histogram."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def mean_and_stderr(values: Tensor) -> tuple[float, float | None]:
    """The mean over the data and its standard error, None for one datum."""
    values = values.double()
    if len(values) < 2:
        return float(values.mean()), None
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def quantiles(values: Tensor) -> dict[str, float]:
    """The datum at or next above each quantile, so that infinities may be among them; NaN are left out."""
    kept = values[~values.isnan()].double().numpy()
    if not len(kept):
        return {}
    found = np.quantile(kept, QUANTILES, method="inverted_cdf")
    return {str(q): float(value) for q, value in zip(QUANTILES, found, strict=True)}


def histogram(values: Tensor, edges: np.ndarray | None = None) -> dict[str, list[Any]]:
    """Counts of the finite values; by default in bins of 0.1, or of twice that as often as 60 are too few."""
    finite = values[values.isfinite()].double().numpy()
    if edges is None:
        width = 0.1
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, width)
        while (high - low) / width > 60:
            width *= 2
        first, last = math.floor(low / width), math.floor(high / width) + 1
        edges = width * np.arange(first, last + 1)
    counts, edges = np.histogram(finite, edges)
    return {"edges": [round(float(edge), 12) for edge in edges], "counts": counts.tolist()}

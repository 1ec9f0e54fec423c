"""A comparison that takes a second: probabilistic PCA in float64 on sixty data."""

from typing import Any

import torch

from ppvae.comparison import compare
from ppvae.data import Dataset, Split

QUICK: dict[str, Any] = {
    "seeds": 2, "steps": 5, "batch": 20, "curve_points": 2, "curve_n": 7, "curve_k": 2, "eval_k": 3,
    "eval_n": 5, "repeats": 8, "probe_steps": 2, "progress": False,
}  # fmt: skip


def numbers(train: int = 60, seed: int = 0) -> Dataset:
    x = torch.randn(train + 24, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parts = (x[:train], x[train : train + 12], x[train + 12 :])
    first, valid, test = (Split({"x": part}) for part in parts)
    return Dataset(name="numbers", train=first, valid=valid, test=test)


def quick(
    estimators: Any = ("elbo", "iwae:k=3"), data: Any = None, pair: Any = "ppca_mean_field", **options: Any
):
    return compare(pair, estimators, numbers() if data is None else data, **{**QUICK, **options})


def timeless(found: Any) -> Any:
    """What a comparison measured, without the seconds and what it ran on."""
    if isinstance(found, dict):
        return {
            key: timeless(value)
            for key, value in found.items()
            if "seconds" not in key and key not in ("environment", "variance_time", "folder", "out")
        }
    return [timeless(value) for value in found] if isinstance(found, list) else found

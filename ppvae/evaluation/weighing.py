"""What the importance weights of a sample of data tell: log p(x), its K curve, and how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.evaluation.importance import log_weights
from ppvae.evaluation.k_curve import block_bound, ladder
from ppvae.evaluation.means import batches, evaluating
from ppvae.evaluation.psis import FEWEST, UNRELIABLE, effective_sample_size, psis
from ppvae.evaluation.summary import histogram, mean_and_stderr, quantiles

KEPT = 2**24
"""Log-weights that are kept at once (128 MiB in float64): of 100 data, or of fewer where K is large. Nothing
that is kept for longer grows with K, but by the ladder of the curve."""
WORST = 16


@dataclass(frozen=True)
class Weighed:
    """One number a datum, (n,), float64 on the CPU."""

    k: int
    curve: dict[int, Tensor]
    """The bound L_k in nats, by k; the last is the estimate of log p(x)."""
    k_hat: Tensor | None
    """None where K is too small for one."""
    effective_sample_size: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        return self.curve[self.k]


def weigh(built: Built, split: Any, k: int, seed: int = 0) -> Weighed:
    """Draw k particles for each datum of the split, and read everything off the same weights.

    Raises:
        PairError: the pair's weights are not one number per datum and draw (global latents, scales).
    """
    steps = ladder(k)
    curves: dict[int, list[Tensor]] = {step: [] for step in steps}
    k_hats, sizes = [], []
    with evaluating(built, seed):
        for batch in batches(built, split, max(1, min(100, KEPT // k))):
            weights = log_weights(built, built.inputs(batch), k)
            sizes.append(effective_sample_size(weights).cpu())
            if k >= FEWEST:
                k_hats.append(psis(weights).k_hat.cpu())
            weights = weights.double()
            for step in steps:
                curves[step].append(block_bound(weights, step).cpu())
    return Weighed(
        k=k,
        curve={step: torch.cat(parts) for step, parts in curves.items()},
        k_hat=torch.cat(k_hats) if k_hats else None,
        effective_sample_size=torch.cat(sizes),
    )


def weighed_summary(found: Weighed, index: Tensor) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries of evaluation.json and the reasons of those that are None; `index` (n,) are the data's
    places in the split."""
    results: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    results["log_likelihood"], results["log_likelihood_stderr"] = mean_and_stderr(found.log_likelihood)
    results["k_curve"] = _curve(found)
    results["k_hat"] = _k_hat(found.k_hat)
    if found.k_hat is None:
        reasons["k_hat"] = f"K = {found.k} draws are too few for a k-hat: use k={FEWEST} or more"
    results["effective_sample_size"] = _size(found)
    results["worst"] = _worst(found, index)
    return results, reasons


def _curve(found: Weighed) -> list[dict[str, Any]]:
    """One entry a K. Differences to the last are of the same data, so that their errors are smaller."""
    rows = []
    for k, values in found.curve.items():
        mean, error = mean_and_stderr(values)
        below, below_error = mean_and_stderr(found.log_likelihood - values)
        rows.append({"k": k, "bound": mean, "bound_stderr": error})
        rows[-1] |= {"below_last": below, "below_last_stderr": below_error}
    return rows


def _k_hat(k_hat: Tensor | None) -> dict[str, Any] | None:
    if k_hat is None:
        return None
    defined = k_hat[~k_hat.isnan()]
    share, error = mean_and_stderr((defined > UNRELIABLE).double()) if len(defined) else (None, None)
    return {
        "above": UNRELIABLE,
        "share_above": share,
        "share_above_stderr": error,
        "exact": int((defined == -torch.inf).sum()),
        "dominated": int((defined == torch.inf).sum()),
        "undefined": len(k_hat) - len(defined),
        "quantiles": quantiles(k_hat),
        "histogram": histogram(k_hat),
    }


def _size(found: Weighed) -> dict[str, Any]:
    size = found.effective_sample_size
    mean, error = mean_and_stderr(size)
    edges = np.geomspace(1.0, max(found.k, 2), 31)
    edges[[0, -1]] = 1 - 1e-6, edges[-1] * (1 + 1e-6)  # rounding must not push a datum off the ends
    return {
        "mean": mean,
        "mean_stderr": error,
        "of": found.k,
        "quantiles": quantiles(size),
        "histogram": histogram(size, edges),
    }


def _worst(found: Weighed, index: Tensor) -> list[dict[str, Any]]:
    """The data of the largest k-hat, the undefined first, then of the smallest effective sample size."""
    size, k_hat = found.effective_sample_size, found.k_hat
    most = torch.finfo(size.dtype).max  # so that NaN comes before inf
    badness = torch.zeros_like(size) if k_hat is None else k_hat.nan_to_num(torch.inf, posinf=most)
    # Sorted by the second key first: stable sorts keep its order among equals.
    order = size.nan_to_num(nan=0.0).argsort(stable=True)
    order = order[badness[order].argsort(descending=True, stable=True)][:WORST]
    return [
        {
            "index": int(index[i]),
            "k_hat": None if k_hat is None else _number(k_hat[i]),
            "effective_sample_size": _number(size[i]),
            "log_likelihood": _number(found.log_likelihood[i]),
        }
        for i in order
    ]


def _number(value: Tensor) -> float | None:
    """NaN as None: two evaluations that are the same must compare equal."""
    return None if bool(value.isnan()) else float(value)

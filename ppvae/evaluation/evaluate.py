"""Everything that `evaluation.json` holds about a trained pair."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from ppvae.build import Built
from ppvae.errors import DataError, PairError, UsageError
from ppvae.evaluation.importance import log_likelihood
from ppvae.evaluation.means import batches, evaluating, mean_terms
from ppvae.evaluation.units import active_units

TEST_SEED = 10_000
"""Where the test data are binarized anew for each batch, they are drawn once under this seed."""


def evaluate(
    built: Built, dataset: Any, *, k: int = 1000, n: int = 1000, seed: int = 0, split: str = "test"
) -> dict[str, Any]:
    """Score a pair on held-out data. Every estimate is in nats per datum and has a `_stderr` beside it.

    Keys: `elbo` (all data of the split, one draw each), `log_likelihood` (importance sampling with K = `k` draws for
    each of `n` shuffled data), `rate`, `distortion`, `bits_per_dim`, `active_units`, `k`, `n`, `n_elbo`, `sites`,
    `binarization`, `data_hash`, `seconds`. What is undefined for the pair is None, and `reasons` says why.

    Raises:
        UsageError: k or n below one. DataError: the split is missing or empty.
    """
    if k < 1 or n < 1:
        raise UsageError(f"k={k}, n={n}: use at least 1 of each")
    held_out = getattr(dataset, split)
    if held_out is None or len(held_out) == 0:
        raise DataError(f"data set {dataset.name!r} has no {split} data: choose another split, or give it some")
    started = time.monotonic()
    held_out = held_out.fixed(TEST_SEED).to(built.device)
    means = mean_terms(built, held_out, seed=seed)
    results: dict[str, Any] = {name: means[name] for name in ("elbo", "rate", "distortion")}
    results |= {f"{name}_stderr": means[f"{name}_stderr"] for name in ("elbo", "rate", "distortion")}
    reasons: dict[str, str] = {}
    _likelihood(built, held_out, k, n, seed, results, reasons)
    _bits(built, dataset, results, reasons)
    _units(built, held_out, seed, results, reasons)
    _undefined(built, results, reasons)
    units = results.pop("_units")
    return results | {
        "k": k,
        "n": min(n, len(held_out)),
        "n_elbo": len(held_out),
        "split": split,
        "seed": seed,
        "sites": _sites(means, units),
        "binarization": dataset.binarization,
        "data": dataset.name,
        "data_hash": dataset.hash,
        "units": "nats per datum",
        "reasons": reasons,
        "seconds": time.monotonic() - started,
    }


def _likelihood(built: Built, split: Any, k: int, n: int, seed: int, results: dict, reasons: dict) -> None:
    """Importance sampling on a shuffled sample: never the first n, which may be sorted by class."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:n]
    sample = split.subset(order.to(split.device))
    results["log_likelihood"] = results["log_likelihood_stderr"] = None
    found = []
    try:
        with evaluating(built, seed + 1):
            for batch in batches(built, sample, 100):
                found.append(log_likelihood(built, built.inputs(batch), k).double())
    except PairError as error:
        reasons["log_likelihood"] = str(error)
        return
    values = torch.cat(found)
    results["log_likelihood"] = float(values.mean())
    results["log_likelihood_stderr"] = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def _bits(built: Built, dataset: Any, results: dict, reasons: dict) -> None:
    results["bits_per_dim"] = results["bits_per_dim_stderr"] = None
    value, error = results["log_likelihood"], results["log_likelihood_stderr"]
    if value is None:
        reasons["bits_per_dim"] = "there is no log_likelihood"
    elif dataset.levels is None:
        reasons["bits_per_dim"] = "the data are continuous: a density has no bits"
    else:
        scale = math.prod(dataset.shapes[built.pair.observed[0]]) * math.log(2.0)
        results["bits_per_dim"] = -value / scale
        results["bits_per_dim_stderr"] = None if error is None else error / scale


def _units(built: Built, split: Any, seed: int, results: dict, reasons: dict) -> None:
    units = active_units(built, split, seed=seed)
    results["_units"] = units
    results["active_units"] = sum(units.values()) if units else None
    if not units:
        reasons["active_units"] = "the guide draws no continuous local latent with a mean"


def _undefined(built: Built, results: dict, reasons: dict) -> None:
    """A pair whose objective is no bound has neither elbo nor likelihood, whatever the sums say."""
    if built.pair.bound != "none":
        return
    for name in ("elbo", "log_likelihood", "bits_per_dim", "rate"):
        results[name] = results[f"{name}_stderr"] = None
        reasons[name] = "the pair's objective is no bound on log p(x) (Pair(bound='none'))"


def _sites(means: dict[str, float], units: dict[str, int]) -> dict[str, dict[str, Any]]:
    sites: dict[str, dict[str, Any]] = {}
    for key, value in means.items():
        word, _, name = key.partition("/")
        if not name or name.endswith("_stderr"):
            continue
        sites[name] = {word: value, f"{word}_stderr": means[f"{key}_stderr"]}
        if name in units:
            sites[name]["active_units"] = units[name]
    return sites

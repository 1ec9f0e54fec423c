"""Everything that `evaluation.json` holds about a trained pair."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from ppvae.built import Built
from ppvae.data.dataset import SPLITS, Dataset
from ppvae.errors import DataError, PairError, UsageError, nearest
from ppvae.evaluation.importance import log_likelihood
from ppvae.evaluation.means import batches, evaluating, mean_terms
from ppvae.evaluation.units import active_units


def evaluate(
    built: Built, dataset: Dataset, *, k: int = 1000, n: int = 1000, seed: int = 0, split: str = "test"
) -> dict[str, Any]:
    """Score a pair on held-out data. Every estimate is in nats per datum and has a `_stderr` beside it.

    Keys: `elbo` (all data of the split, one draw each), `log_likelihood` (importance sampling with K = `k`
    draws for each of `n` shuffled data), `rate`, `distortion`, `bits_per_dim`, `active_units`, `k`, `n`,
    `n_elbo`, `sites`, `binarization`, `data_hash`, `seconds`. What is undefined for the pair is None, and
    `reasons` says why. A dynamically binarized split is evaluated on its one fixed draw.

    Raises:
        UsageError: k or n below one. DataError: the split is missing or empty.
    """
    if k < 1 or n < 1:
        raise UsageError(f"k={k}, n={n}: use at least 1 of each")
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}{nearest(split, SPLITS) or ':'} There are: {', '.join(SPLITS)}")
    if split not in dataset.splits or len(dataset.splits[split]) == 0:
        has = ", ".join(dataset.splits)
        raise DataError(f"data set {dataset.name!r} has no {split} data but {has}: evaluate on one of those")
    started = time.monotonic()
    held_out = dataset.fixed(split).to(built.device or "cpu")
    means = mean_terms(built, held_out, seed=seed)
    names = ("elbo", "rate", "distortion")
    results: dict[str, Any] = {n: means[n] for name in names for n in (name, f"{name}_stderr")}
    reasons: dict[str, str] = {}
    units = active_units(built, held_out, seed=seed)
    results["active_units"] = sum(units.values()) if units else None
    if not units:
        reasons["active_units"] = "the guide draws no continuous local latent with a mean"
    sites = _sites(means, units)
    if built.pair.bound == "none":
        _no_bound(results, sites, reasons)
    else:
        _likelihood(built, held_out, k, n, seed, results, reasons)
        _bits(built, dataset, held_out, results, reasons)
    return results | {
        "k": k,
        "n": min(n, len(held_out)),
        "n_elbo": len(held_out),
        "split": split,
        "seed": seed,
        "sites": sites,
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
    if len(values) > 1:
        results["log_likelihood_stderr"] = float(values.std() / math.sqrt(len(values)))


def _bits(built: Built, dataset: Any, split: Any, results: dict, reasons: dict) -> None:
    """-log2 p(x) per entry of x, where x is discrete in the data and in the likelihood, and of one size."""
    results["bits_per_dim"] = results["bits_per_dim_stderr"] = None
    value, error = results["log_likelihood"], results["log_likelihood_stderr"]
    if value is None:
        reasons["bits_per_dim"] = "there is no log_likelihood"
    elif built.pair.observed != ("x",):
        reasons["bits_per_dim"] = "what is observed is not x alone"
    elif dataset.levels is None:
        reasons["bits_per_dim"] = "the data are continuous: a density has no bits"
    elif not _is_discrete(built, split):
        reasons["bits_per_dim"] = "the likelihood is continuous: a density has no bits"
    elif {"mask", "lengths"} & set(dataset.shapes):
        reasons["bits_per_dim"] = "the data differ in how many entries they have"
    else:
        scale = math.prod(dataset.shapes["x"]) * math.log(2.0)
        results["bits_per_dim"] = -value / scale
        results["bits_per_dim_stderr"] = None if error is None else error / scale


def _is_discrete(built: Built, split: Any) -> bool:
    """Whether the model's p(x | z) is a probability mass."""
    with evaluating(built, 0):
        likelihood = built.score(next(batches(built, split, 1)), 1).sites["x"].p
    try:
        return likelihood.support.is_discrete
    except (NotImplementedError, AttributeError):
        return False


def _no_bound(results: dict, sites: dict, reasons: dict) -> None:
    """A pair whose objective is no bound has neither elbo nor likelihood, whatever the sums say."""
    for name in ("elbo", "log_likelihood", "bits_per_dim", "rate"):
        results[name] = results[f"{name}_stderr"] = None
        reasons[name] = "the pair's objective is no bound on log p(x) (Pair(bound='none'))"
    for site in sites.values():
        site |= dict.fromkeys(site.keys() & {"rate", "rate_stderr"})


def _sites(means: dict[str, Any], units: dict[str, int]) -> dict[str, dict[str, Any]]:
    sites: dict[str, dict[str, Any]] = {}
    for key, value in means.items():
        word, _, name = key.partition("/")
        if not name or name.endswith("_stderr"):
            continue
        sites[name] = {word: value, f"{word}_stderr": means[f"{key}_stderr"]}
        if name in units:
            sites[name]["active_units"] = units[name]
    return sites

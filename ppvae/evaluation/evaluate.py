"""Everything that `evaluation.json` holds about a trained pair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.data.dataset import Dataset
from ppvae.errors import DataError, PairError
from ppvae.evaluation.further import MEASURES, Evaluated
from ppvae.evaluation.information import information, information_summary
from ppvae.evaluation.means import batches, evaluating, mean_terms
from ppvae.evaluation.units import active_units
from ppvae.evaluation.weighing import weigh, weighed_summary
from ppvae.evaluation_config import EvaluationConfig

WEIGHED = ("log_likelihood", "log_likelihood_stderr", "k_curve", "k_hat", "effective_sample_size", "worst")
"""What is read off importance weights."""


def evaluate(
    built: Built,
    dataset: Dataset,
    config: EvaluationConfig | None = None,
    *,
    on_stage: Callable[[str], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Score a pair on held-out data. Every estimate is in nats per datum and has a `_stderr` beside it.

    Keys: `elbo` (all data of the split, one draw each), `log_likelihood` (importance sampling with K = `k`
    draws for each of `n` shuffled data) and, off the same weights, its `k_curve`, `k_hat`,
    `effective_sample_size` and the `worst` data; `information`, `rate`, `distortion`, `bits_per_dim`,
    `active_units`, `k`, `n`, `n_elbo`, `sites`, `binarization`, `data_hash`, `seconds`; and what is asked for
    besides: `calibration`, `ais`, `gaps`, `rate_distortion`. What is undefined for the pair is None, and
    `reasons` says why. A dynamically binarized split is evaluated on its one fixed draw.

    Args:
        config: what is measured; `options` are fields of it, such as `k=5000` or `calibration=True`, and win.
        on_stage: told what begins, in a word or two.

    Raises:
        UsageError: an option that does not exist or fit. DataError: the split is missing or empty.
    """
    config = EvaluationConfig.from_options(config, options)
    split = config.split
    if split not in dataset.splits or len(dataset.splits[split]) == 0:
        has = ", ".join(dataset.splits)
        raise DataError(f"data set {dataset.name!r} has no {split} data but {has}: evaluate on one of those")
    started = time.monotonic()
    tell = on_stage or (lambda stage: None)
    held_out = dataset.fixed(split).to(built.device or "cpu")
    tell("elbo")
    means = mean_terms(built, held_out, seed=config.seed)
    names = ("elbo", "rate", "distortion")
    results: dict[str, Any] = {n: means[n] for name in names for n in (name, f"{name}_stderr")}
    reasons: dict[str, str] = {}
    units = active_units(built, held_out, seed=config.seed)
    results["active_units"] = sum(units.values()) if units else None
    if not units:
        reasons["active_units"] = "the guide draws no continuous local latent with a mean"
    sites = _sites(means, units)
    if built.pair.bound == "none":
        _no_bound(config, results, sites, reasons)
    else:
        # Never the first n, which may be sorted by class.
        order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(config.seed))
        order = order[: config.n]
        sample = held_out.subset(order.to(held_out.device))
        tell("log p(x)")
        log_likelihood = _weights(built, sample, order, config, results, reasons)
        _bits(built, dataset, held_out, results, reasons)
        tell("information")
        _information(built, sample, config, results, reasons)
        evaluated = Evaluated(built, sample, config, log_likelihood)
        for name in config.further():
            tell(name.replace("_", " "))
            try:
                results[name] = MEASURES[name](evaluated)
            except PairError as error:
                results[name], reasons[name] = None, str(error)
    return results | {
        "k": config.k,
        "n": min(config.n, len(held_out)),
        "n_elbo": len(held_out),
        "split": split,
        "seed": config.seed,
        "sites": sites,
        "binarization": dataset.binarization,
        "data": dataset.name,
        "data_hash": dataset.hash,
        "units": "nats per datum",
        "reasons": reasons,
        "seconds": time.monotonic() - started,
    }


def _weights(
    built: Built, sample: Any, order: Tensor, config: EvaluationConfig, results: dict, reasons: dict
) -> Tensor | None:
    """log p(x) of each datum of the sample, None where there are no weights."""
    try:
        weighed = weigh(built, sample, config.k, config.seed + 1)
    except PairError as error:
        results |= dict.fromkeys(WEIGHED)
        reasons |= {name: str(error) for name in WEIGHED if not name.endswith("_stderr")}
        return None
    found, why = weighed_summary(weighed, order)
    results |= found
    reasons |= why
    return weighed.log_likelihood


def _information(built: Built, sample: Any, config: EvaluationConfig, results: dict, reasons: dict) -> None:
    found, why = information(built, sample, seed=config.seed + 2)
    results["information"] = {name: information_summary(parts) for name, parts in found.items()}
    results["information"] |= dict.fromkeys(why)
    reasons |= {f"information/{name}": reason for name, reason in why.items()}


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


def _no_bound(config: EvaluationConfig, results: dict, sites: dict, reasons: dict) -> None:
    """A pair whose objective is no bound has neither elbo nor likelihood, whatever the sums say."""
    estimates = ("elbo", "log_likelihood", "bits_per_dim", "rate")
    for name in (*estimates, *WEIGHED, "information", *config.further()):
        if not name.endswith("_stderr"):
            results[name] = None
            reasons[name] = "the pair's objective is no bound on log p(x) (Pair(bound='none'))"
    results |= {f"{name}_stderr": None for name in estimates}
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

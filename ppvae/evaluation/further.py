"""What is measured only when asked for, since it takes minutes: each returns its entry of evaluation.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.errors import PairError
from ppvae.evaluation.ais import annealed, bidirectional
from ppvae.evaluation.calibration import calibration_ranks, calibration_summary
from ppvae.evaluation.gaps import inference_gaps
from ppvae.evaluation.means import evaluating
from ppvae.evaluation.rate_distortion import BETAS, rate_distortion_curve
from ppvae.evaluation.summary import mean_and_stderr
from ppvae.evaluation_config import EvaluationConfig

DRAWS = 50
"""Draws of the guide for each datum, for its own rate and distortion."""


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, and what is known of it already."""

    built: Built
    sample: Any
    """A split of shuffled data."""
    config: EvaluationConfig
    log_likelihood: Tensor | None
    """Of each datum of the sample, by importance sampling."""

    def first(self, n: int) -> dict[str, Tensor]:
        """The first n data of the sample, on the pair's device."""
        batch = self.sample.batch(torch.arange(min(n, len(self.sample)), device=self.sample.device))
        return {name: value.to(self.built.device) for name, value in batch.items()}


def calibration(found: Evaluated) -> dict[str, Any]:
    config = found.config
    options = {"n": config.calibration_n, "draws": config.calibration_draws, "seed": config.seed + 3}
    return calibration_summary(calibration_ranks(found.built, found.sample, **options))


def ais(found: Evaluated) -> dict[str, Any]:
    """A lower bound on the data, beside importance sampling's on the same; and both sides, on data that the
    model drew itself unless the posterior is known, and not at all where the model cannot draw any."""
    config = found.config
    batch = found.first(config.ais_n)
    options: dict[str, Any] = {"chains": config.chains, "temperatures": config.temperatures}
    options["start"] = config.start
    lower = annealed(found.built, batch, **options, seed=config.seed + 4)
    results: dict[str, Any] = {"n": len(lower.lower), "k": config.k, **options, **lower.summary()}
    results |= dict.fromkeys((*_AGAINST, *_BOTH_SIDES))
    try:
        both = bidirectional(found.built, batch, **options, seed=config.seed + 5)
        results |= both.summary() | {"bdmc_gap_each": both.gap.tolist()}
    except PairError as error:
        results["bdmc_missing"] = str(error)
    if found.log_likelihood is not None:
        weighed = found.log_likelihood[: len(lower.lower)]
        results["importance"], results["importance_stderr"] = mean_and_stderr(weighed)
        above = mean_and_stderr(lower.lower.cpu().double() - weighed)
        results["ais_above_importance"], results["ais_above_importance_stderr"] = above
    return results


_AGAINST = ("importance", "importance_stderr", "ais_above_importance", "ais_above_importance_stderr")
_BOTH_SIDES = (
    "bdmc_lower", "bdmc_lower_stderr", "bdmc_upper", "bdmc_upper_stderr", "bdmc_gap", "bdmc_gap_stderr",
    "bdmc_acceptance", "bdmc_simulated", "bdmc_gap_each", "bdmc_missing",
)  # fmt: skip
"""`bdmc_missing` says why the others are None."""


def gaps(found: Evaluated) -> dict[str, Any]:
    config = found.config
    batch = found.first(config.gaps_n)
    parts = inference_gaps(found.built, batch, steps=config.gaps_steps, k=config.k, seed=config.seed + 6)
    results: dict[str, Any] = {"n": len(parts.log_p), "k": config.k, "steps": config.gaps_steps}
    for name, values in (("log_p", parts.log_p), ("elbo", parts.amortized)):
        results[name], results[f"{name}_stderr"] = mean_and_stderr(values.cpu())
    return results | parts.summary()


def rate_distortion(found: Evaluated) -> dict[str, Any]:
    """The curve, and the guide's own point on the same data."""
    config = found.config
    batch = found.first(config.rate_distortion_n)
    temperatures = max(config.temperatures, len(BETAS))
    options: dict[str, Any] = {"chains": config.chains, "temperatures": temperatures}
    curve = rate_distortion_curve(found.built, batch, **options, seed=config.seed + 7)
    with evaluating(found.built, config.seed + 8):
        parts = [found.built.score(found.built.inputs(batch), 1) for _ in range(DRAWS)]
    guide: dict[str, Any] = {}
    for name, values in (
        ("rate", [-terms.log_ratio[0] for terms in parts]),
        ("distortion", [-terms.log_likelihood[0] for terms in parts]),
    ):
        guide[name], guide[f"{name}_stderr"] = mean_and_stderr(torch.stack(values).mean(0).cpu())
    return {"n": curve.rate.shape[1], **options, "curve": curve.summary(), "guide": guide}


MEASURES: dict[str, Callable[[Evaluated], dict[str, Any]]] = {
    "calibration": calibration,
    "ais": ais,
    "gaps": gaps,
    "rate_distortion": rate_distortion,
}

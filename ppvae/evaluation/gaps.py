"""What a guide loses, in two parts: by its family, and by serving all data with one net.

    log p(x) - L[q_phi] = (log p(x) - L[q*])   +   (L[q*] - L[q_phi])
                           approximation gap        amortization gap

q* is the Gaussian that maximizes the ELBO of one datum by itself. It is found for all data of a batch at
once, by Adam from the guide's own parameters, and scored on draws that it was not fitted to.

Reference: Cremer, Li & Duvenaud (2018), Inference Suboptimality in Variational Autoencoders,
arXiv:1801.03558.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.errors import UsageError
from ppvae.evaluation.ais import annealed, named_mean
from ppvae.evaluation.chunks import row_chunks
from ppvae.evaluation.local_gaussian import (
    AT_ONCE,
    Family,
    LocalGaussian,
    elbos,
    fitted,
    gain,
    guide_gaussian,
)
from ppvae.evaluation.log_joint import LogJoint
from ppvae.evaluation.means import evaluating
from ppvae.shapes import Float

CHAINS, TEMPERATURES = 20, 200
"""Of the annealed estimate of log p(x), where importance sampling is not the better one."""
TOLERANCE = 0.01
"""Nats by which the noise of Adam may leave q* short of its maximum, without a warning."""
UNSETTLED, ROUNDS = 0.1, 5
"""Nats of gain for which q* is fitted again, and how many fits there are at most."""


@dataclass(frozen=True)
class Gaps:
    """log p(x), the guide's ELBO and the best one of its family, by datum, in nats; errors are those of Monte
    Carlo, one standard error each."""

    log_p: Float[Tensor, " B"]
    log_p_error: Float[Tensor, " B"]
    amortized: Float[Tensor, " B"]
    """L[q_phi]."""
    best: Float[Tensor, " B"]
    """L[q*]."""
    best_error: Float[Tensor, " B"]
    amortization_error: Float[Tensor, " B"]
    """Of best - amortized, which share their noise where they can."""
    unsettled: Float[Tensor, " B"]
    """What L[q*] gained last, in the second half of its one fit or by fitting it again."""
    family: Family
    note: str | None
    """How the family of q* differs from the guide's own; None where it does not."""
    source: str
    """Where log p(x) comes from: `evidence` (exact), `given`, `importance_sampling` or `ais` (lower
    bounds)."""

    @property
    def approximation(self) -> Float[Tensor, " B"]:
        """log p(x) - L[q*]; too small where log p(x) is a lower bound."""
        return self.log_p - self.best

    @property
    def amortization(self) -> Float[Tensor, " B"]:
        """L[q*] - L[q_phi]."""
        return self.best - self.amortized

    def warnings(self) -> list[str]:
        """A line for each gap whose mean is negative by more than `TOLERANCE` and three Monte Carlo errors,
        and one for data whose q* has not settled."""
        found: list[str] = []
        error = (self.log_p_error**2 + self.best_error**2).sqrt()
        why = {"approximation": "log p(x) is estimated too low", "amortization": "q* has not converged"}
        for name, errors in (("approximation", error), ("amortization", self.amortization_error)):
            mean, deviation = float(getattr(self, name).mean()), float(errors.norm() / len(errors))
            if mean < -3 * deviation - TOLERANCE:
                more = f"; {self.note}" if self.note else ""
                found.append(f"the {name} gap is {mean:.3g} +- {deviation:.2g} nats: {why[name]}{more}")
        if bool((self.unsettled > UNSETTLED).any()):
            many, most = int((self.unsettled > UNSETTLED).sum()), float(self.unsettled.max())
            found.append(f"q* of {many} data was still gaining, by up to {most:.2g} nats: raise steps")
        return found

    def summary(self) -> dict[str, Any]:
        """`approximation_gap`, `amortization_gap`, `elbo_best`, means over the data in nats, each with
        `_stderr` over the data; `gap_family`, `gap_note`, `gap_log_p`, `gap_warnings`."""
        return {
            **named_mean("approximation_gap", self.approximation),
            **named_mean("amortization_gap", self.amortization),
            **named_mean("elbo_best", self.best),
            "gap_family": self.family,
            "gap_note": self.note,
            "gap_log_p": self.source,
            "gap_warnings": self.warnings(),
        }


def inference_gaps(
    built: Built,
    batch: Mapping[str, Tensor],
    *,
    family: Family | None = None,
    log_p: Float[Tensor, " B"] | None = None,
    steps: int = 1000,
    particles: int = 10,
    lr: float = 0.05,
    draws: int = 1000,
    k: int = 1000,
    seed: int = 0,
) -> Gaps:
    """Approximation and amortization gap of each datum of a batch.

    Args:
        family: of q*; None: the guide's own. A guide of several latents is compared with one Gaussian whose
            coordinates are all independent, another family than that of a hierarchical guide (`Gaps.note`).
        log_p: log p(x) of each datum, where it is known better than below.
        steps, particles, lr: of Adam, whose rate falls to zero by a cosine; `lr` is in units of the guide's
            width. A fit that is still gaining after them goes on from where it stands, four times at most.
        draws: for each final ELBO.
        k: draws of importance sampling, where the pair has no `evidence`; the larger in the mean of this and
            of annealed importance sampling is taken.

    Raises:
        UsageError: a number too small. PairError: a guide that is not Gaussian, masked latents; see also
            `ppvae.evaluation.log_joint.LogJoint`.
    """
    if min(steps, particles, draws - 1, k) < 1:
        raise UsageError(
            f"steps={steps}, particles={particles}, draws={draws}, k={k}: use at least 1, 1, 2 and 1"
        )
    if family not in (None, "mean_field", "full"):
        raise UsageError(f"family={family!r}: use 'mean_field' or 'full'")
    inputs = built.inputs(batch)
    parts = []
    with evaluating(built, seed):
        for part in row_chunks(built, inputs, max(particles, min(draws, AT_ONCE))):
            guide = guide_gaussian(built, part, family)
            best, gained = _best(LogJoint(built, part, particles, "prior"), guide, steps, lr)
            parts.append((*elbos(built, part, guide, best, draws), gained))
        amortized, elbo, error, paired, gained = (torch.cat(column) for column in zip(*parts, strict=True))
        found = (log_p, torch.zeros_like(log_p), "given") if log_p is not None else _known(built, inputs)
    if found is None:
        found = _estimated(built, inputs, k, seed)
    return Gaps(
        log_p=found[0].double(),
        log_p_error=found[1].double(),
        amortized=amortized,
        best=elbo,
        best_error=error,
        amortization_error=paired,
        unsettled=gained,
        family=guide.family,
        note=guide.note,
        source=found[2],
    )


def _best(
    joint: LogJoint, guide: LocalGaussian, steps: int, lr: float
) -> tuple[LocalGaussian, Float[Tensor, " B"]]:
    """(q*, what it gained last): fitted again from where it has come to, until no datum gains."""
    best, half = fitted(joint, guide, steps, lr)
    gained = gain(joint, best, half)
    for _ in range(ROUNDS - 1):
        if bool(gained.max() < UNSETTLED):
            break
        # Half way the rate is high and adds noise, which is gone at the end: from here on, ends are compared.
        before, (best, _) = best, fitted(joint, best, steps, lr)
        gained = gain(joint, best, before)
    return best, gained


def _known(built: Built, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, str] | None:
    if built.pair.evidence is None:
        return None
    with built.local():
        log_p = built.pair.evidence(built.model, batch)
    return log_p, torch.zeros_like(log_p), "evidence"


def _estimated(built: Built, batch: dict[str, Tensor], k: int, seed: int) -> tuple[Tensor, Tensor, str]:
    """The tighter of two lower bounds, chosen by their means over the data: a choice datum by datum would
    pick out luck."""
    run = annealed(built, batch, chains=CHAINS, temperatures=TEMPERATURES, seed=seed + 1)
    found = [(run.lower, (1 / run.ess - 1 / CHAINS).clamp(min=0.0).sqrt(), "ais")]
    with evaluating(built, seed + 2):
        parts = [_importance(built, part, k) for part in row_chunks(built, batch, min(k, AT_ONCE))]
    log_p, error = (torch.cat(column) for column in zip(*parts, strict=True))
    found.append((log_p, error, "importance_sampling"))
    return max(found, key=lambda one: float(one[0].mean()))


def _importance(built: Built, batch: Mapping[str, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The log of the mean of K importance weights, and its error: (sum w^2 / (sum w)^2 - 1 / K)^(1/2), the
    relative one of the mean."""
    first, second, done = [], [], 0
    while done < k:
        log_weight = built.score(batch, min(AT_ONCE, k - done)).log_weight.double()
        done += len(log_weight)
        first.append(log_weight.logsumexp(0))
        second.append((2 * log_weight).logsumexp(0))
    log_sum, log_squares = (torch.stack(parts).logsumexp(0) for parts in (first, second))
    error = ((log_squares - 2 * log_sum).exp() - 1 / k).clamp(min=0.0).sqrt()
    return log_sum - math.log(k), error

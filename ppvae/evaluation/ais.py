"""Annealed importance sampling of log p(x), and both sides of it by bidirectional Monte Carlo.

A path of densities leads from one that can be drawn from, f_0 = q(z | x) or p(z), to the joint f_1 = p(x, z):

    f_beta(z) = f_0(z)^(1 - beta) p(x, z)^beta,   0 = beta_0 < ... < beta_T = 1.

Forward, z_0 ~ f_0, and z_t comes from z_(t-1) by a transition that leaves f_(beta_t) invariant;

    log w = sum_(t=1..T) (beta_t - beta_(t-1)) (log p(x, z_(t-1)) - log f_0(z_(t-1)))

has E w = p(x): the log of the mean of K such weights is a lower bound in expectation. Backward, from an exact
draw of the posterior through the same transitions in reverse order, E 1/w = 1/p(x), which gives an upper
bound. The two meet as T grows. An exact draw is there where the posterior is known, and for data that the
model itself drew: the z behind such an x is one. The step sizes are tuned beforehand
(`ppvae.evaluation.pilot`): both expectations are exact for any of them, as long as they do not follow the
chains.

Reference: Neal (2001), Annealed Importance Sampling, arXiv:physics/9803008; Grosse, Ghahramani & Adams
(2015), Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo, arXiv:1511.02543; Wu, Burda,
Salakhutdinov & Grosse (2017), On the Quantitative Analysis of Decoder-Based Generative Models,
arXiv:1611.04273.

Not to be confused with a bound for each datum: half of all single weights exceed p(x) when T is large. It is
their means that are ordered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.errors import UsageError
from ppvae.evaluation import pilot
from ppvae.evaluation.chunks import row_chunks
from ppvae.evaluation.hmc import Point
from ppvae.evaluation.log_joint import LogJoint, Start
from ppvae.evaluation.means import evaluating
from ppvae.evaluation.simulation import simulated
from ppvae.evaluation.summary import mean_and_stderr
from ppvae.pair import posterior_draws
from ppvae.shapes import Float

Move = Callable[[int, Point], Point]
"""(t, where the chains are) -> where they are after a move that leaves f_(beta_t) invariant."""


@dataclass(frozen=True)
class Annealed:
    """What annealed importance sampling found."""

    log_weight: Float[Tensor, "K B"]
    acceptance: Float[Tensor, " B"]
    """Mean acceptance probability of the transitions; nan where there were none."""

    @property
    def lower(self) -> Float[Tensor, " B"]:
        """log (1/K) sum_k w_k in nats, in expectation at most log p(x)."""
        return self.log_weight.logsumexp(0) - math.log(len(self.log_weight))

    @property
    def ess(self) -> Float[Tensor, " B"]:
        """Effective number of chains, (sum_k w_k)^2 / sum_k w_k^2, between 1 and K."""
        return (2 * self.log_weight.logsumexp(0) - (2 * self.log_weight).logsumexp(0)).exp()

    def summary(self) -> dict[str, float | None]:
        """`ais_lower`, its mean over the data in nats, and `_stderr`; `ais_ess`, `ais_acceptance`, means
        too."""
        return {
            **named_mean("ais_lower", self.lower),
            "ais_ess": float(self.ess.mean()),
            "ais_acceptance": _number(self.acceptance.mean()),
        }


@dataclass(frozen=True)
class Sandwich:
    """log p(x) from both sides, in nats."""

    lower: Float[Tensor, " B"]
    upper: Float[Tensor, " B"]
    acceptance: Float[Tensor, " B"]
    is_simulated: bool
    """Whether the model drew the data itself; otherwise they are those given, whose posterior is known."""
    batch: Mapping[str, Tensor]
    """The data that the bounds are about."""

    @property
    def gap(self) -> Float[Tensor, " B"]:
        """upper - lower, in expectation what both bounds may be off by together."""
        return self.upper - self.lower

    def summary(self) -> dict[str, float | bool | None]:
        """`bdmc_lower`, `bdmc_upper`, `bdmc_gap`, means over the data in nats, each with `_stderr`;
        `bdmc_acceptance`; `bdmc_simulated`."""
        return {
            **named_mean("bdmc_lower", self.lower),
            **named_mean("bdmc_upper", self.upper),
            **named_mean("bdmc_gap", self.gap),
            "bdmc_acceptance": _number(self.acceptance.mean()),
            "bdmc_simulated": self.is_simulated,
        }


def annealed(
    built: Built,
    batch: Mapping[str, Tensor],
    *,
    chains: int = 20,
    temperatures: int = 500,
    leapfrog: int = 3,
    start: Start = "guide",
    seed: int = 0,
) -> Annealed:
    """Annealed importance sampling of log p(x) for each datum of a batch.

    Tighter with more chains and above all with more temperatures; with one temperature it is importance
    sampling from the start. Costs `chains` x `temperatures` x `leapfrog` evaluations of log p(x, z) and its
    gradient for each datum, and a pilot of 4 chains. Parameters, training flags and random states are left as
    they are.

    Args:
        chains: K, independent runs for each datum.
        temperatures: T.
        leapfrog: steps of each Hamiltonian transition; few steps at many temperatures go farther than many
            at few.
        start: from the guide, chains have less far to go. From the prior no guide is needed, nor can one that
            misses a mode hide it.

    Raises:
        UsageError: a number below one. PairError: see `ppvae.evaluation.log_joint.LogJoint`.
    """
    _check(chains=chains, temperatures=temperatures, leapfrog=leapfrog)
    betas = schedule(temperatures, start)
    parts = []
    with evaluating(built, seed):
        for part in row_chunks(built, built.inputs(batch), chains):
            joint, walk = _prepared(built, part, chains, betas, leapfrog, start)
            *_, (log_weight, _) = forward(joint.point(joint.draw()), betas, walk)
            parts.append((log_weight, walk.acceptance))
    return Annealed(*(torch.cat(column, -1) for column in zip(*parts, strict=True)))


def bidirectional(
    built: Built,
    batch: Mapping[str, Tensor] | int,
    *,
    chains: int = 20,
    temperatures: int = 500,
    leapfrog: int = 3,
    start: Start = "guide",
    seed: int = 0,
) -> Sandwich:
    """log p(x) of each datum between a lower and an upper bound, each in expectation.

    Where `Pair(posterior=)` is known, the bounds are about the batch itself, and each backward chain starts
    at a draw of its own. Elsewhere they are about data that the model draws, given the batch's conditions,
    masks and
    lengths: all backward chains of a datum then start at the one z that it came from. What such a gap says of
    real data is what the guide and the decoder are like on both (Wu et al. 2017, section 4).

    Args:
        batch: data, or how many to simulate where the model needs nothing given. Others: see `annealed`.

    Raises:
        UsageError: a number below one. PairError: see `LogJoint` and `simulated`.
    """
    _check(chains=chains, temperatures=temperatures, leapfrog=leapfrog)
    betas = schedule(temperatures, start)
    parts, seen = [], []
    with evaluating(built, seed):
        known = built.pair.posterior is not None and not isinstance(batch, int)
        like = simulated(built, batch)[0] if isinstance(batch, int) else built.inputs(batch)
        for part in row_chunks(built, like, chains):
            part, latents = (part, _posterior_draws(built, part, chains)) if known else simulated(built, part)
            joint, walk = _prepared(built, part, chains, betas, leapfrog, start)
            *_, (log_weight, _) = forward(joint.point(joint.draw()), betas, walk)
            reverse = backward(joint.point(joint.unconstrained(latents)), betas, walk)
            parts.append((log_weight.logsumexp(0), -(-reverse).logsumexp(0), walk.acceptance))
            seen.append(part)
    lower, upper, acceptance = (torch.cat(column) for column in zip(*parts, strict=True))
    data = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
    log_k = math.log(chains)
    return Sandwich(lower - log_k, upper + log_k, acceptance, not known, data)


def schedule(temperatures: int, start: Start) -> list[float]:
    """0 = beta_0 < ... < beta_T = 1, slow where the densities change fast.

    From the guide, a sigmoid of evenly spaced logits between -2 and 2, stretched to [0, 1]. From the prior
    (t / T)^3, since log p(x | z) varies most under the prior, and under f_beta with about 1 / beta^2. (On
    pPCA with posteriors a quarter as wide as the prior, and with exact transitions, the gap is then .26 nats
    at T = 100, against .34 for the best sigmoid and .67 for even steps.)
    """
    if start == "prior":
        return [(t / temperatures) ** 3 for t in range(temperatures + 1)]
    raw = [1 / (1 + math.exp(-2.0 * (2 * t / temperatures - 1))) for t in range(temperatures + 1)]
    return [(value - raw[0]) / (raw[-1] - raw[0]) for value in raw]


def forward(point: Point, betas: Sequence[float], move: Move) -> Iterator[tuple[Float[Tensor, "K B"], Point]]:
    """(log w_t, z_t) at t = 1, 2, ..., from z_0 ~ f_0: w_t is the weight of z_t, which has made its move at
    beta_t, as a draw of f_(beta_t)."""
    log_weight = torch.zeros_like(point.log_densities[0], dtype=torch.float64)
    for t in range(1, len(betas)):
        log_weight = log_weight + (betas[t] - betas[t - 1]) * _ratio(point)
        point = move(t, point)
        yield log_weight, point


def backward(point: Point, betas: Sequence[float], move: Move) -> Float[Tensor, "K B"]:
    """log w of the path walked from z ~ f_1 back to f_0, the moves being those of `forward`."""
    log_weight = torch.zeros_like(point.log_densities[0], dtype=torch.float64)
    for t in range(len(betas) - 1, 0, -1):
        point = move(t, point)
        log_weight = log_weight + (betas[t] - betas[t - 1]) * _ratio(point)
    return log_weight


def _ratio(point: Point) -> Float[Tensor, "K B"]:
    """log f_1 - log f_0."""
    return (point.log_densities[1] - point.log_densities[0]).double()


def _prepared(
    built: Built,
    batch: Mapping[str, Tensor],
    chains: int,
    betas: Sequence[float],
    leapfrog: int,
    start: Start,
) -> tuple[LogJoint, pilot.Walk]:
    """The densities of the chains and their transitions, at all temperatures but the ends: at the last, a
    move would change no weight."""
    between = betas[1:-1]
    steps = pilot.tuned(built, batch, between, leapfrog, start) if between else None
    joint = LogJoint(built, batch, chains, start)
    return joint, pilot.Walk(joint, betas, leapfrog, steps)


def _posterior_draws(built: Built, batch: Mapping[str, Tensor], chains: int) -> dict[str, Tensor]:
    assert built.pair.posterior is not None
    with built.local():
        exact = built.pair.posterior(built.model, batch)
        return posterior_draws(exact, chains)


def named_mean(name: str, values: Float[Tensor, " B"]) -> dict[str, float | None]:
    """The mean over the data, and its standard error as `<name>_stderr`, None for one datum."""
    mean, error = mean_and_stderr(values)
    return {name: mean, f"{name}_stderr": error}


def _number(value: Tensor) -> float | None:
    """None for what is not defined: strict JSON has no nan."""
    return None if math.isnan(value) else float(value)


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"{name}={value}: use at least 1")

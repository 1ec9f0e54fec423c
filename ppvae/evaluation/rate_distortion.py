"""The rate-distortion curve of a decoder over beta, from one annealed run that starts at the prior.

With the prior as the code's marginal and the distortion d = -log p(x | z), the best code at beta is

    q_beta(z | x) = p(z) p(x | z)^beta / Z_beta(x),   minimizing rate + beta distortion = -log Z_beta(x),

    rate = KL(q_beta, p(z)),   distortion = E_(q_beta)[-log p(x | z)],   d rate / d distortion = -beta.

These are the densities that annealing from the prior walks through anyway: at each beta the weights w_k of K
chains and their distortions d_k give

    distortion^ = sum_k v_k d_k,  v = w / sum w,      rate^ = -log (1/K) sum_k w_k - beta distortion^.

Choosing one chain by the probabilities v is a code of its own, whose distortion has the first as its
expectation and whose rate is, in expectation, at most the second: the estimated points lie above the curve in
expectation, and rate^ + beta distortion^ above -log Z_beta, for any number of temperatures; they fall onto it
as there are more.

beta = 1 is the model's own posterior, where -(rate + distortion) is log p(x); a decoder trained with
beta-ELBO weight b is used at beta = 1 / b.

Reference: Huang, Makhzani, Cao & Grosse (2020), Evaluating Lossy Compression Rates of Deep Generative Models,
arXiv:2008.06653.

Not to be confused with rate and distortion of the guide, one point that lies on the curve only if the guide
is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.errors import UsageError
from ppvae.evaluation import pilot
from ppvae.evaluation.ais import forward, named_mean
from ppvae.evaluation.chunks import row_chunks
from ppvae.evaluation.hmc import Point
from ppvae.evaluation.log_joint import LogJoint
from ppvae.evaluation.means import evaluating
from ppvae.shapes import Float

BETAS = tuple(2.0**i for i in range(-6, 4))


@dataclass(frozen=True)
class RateDistortion:
    """The curve of each datum, in nats."""

    betas: tuple[float, ...]
    rate: Float[Tensor, "n B"]
    distortion: Float[Tensor, "n B"]
    acceptance: Float[Tensor, " B"]

    @property
    def log_z(self) -> Float[Tensor, "n B"]:
        """log Z_beta = log E_(p(z))[p(x | z)^beta], from below in expectation; / beta: the best beta-ELBO."""
        betas = torch.tensor(self.betas, dtype=self.rate.dtype, device=self.rate.device)
        return -self.rate - betas.unsqueeze(-1) * self.distortion

    def summary(self) -> list[dict[str, float | None]]:
        """One entry for each beta: `beta`, `rate`, `distortion`, `log_z`, means over the data, with
        `_stderr`."""
        return [
            {
                "beta": beta,
                **named_mean("rate", self.rate[i]),
                **named_mean("distortion", self.distortion[i]),
                **named_mean("log_z", self.log_z[i]),
            }
            for i, beta in enumerate(self.betas)
        ]


def rate_distortion_curve(
    built: Built,
    batch: Mapping[str, Tensor],
    *,
    betas: Sequence[float] = BETAS,
    chains: int = 20,
    temperatures: int = 500,
    leapfrog: int = 3,
    seed: int = 0,
) -> RateDistortion:
    """Rate and distortion at each of `betas` for each datum of a batch. The guide is not run.

    Args:
        betas: positive numbers that rise; above 1 the distortion weighs more than in p(z | x).
        temperatures: T of the whole path from 0 to the last beta, at least one for each of `betas`.
        chains, leapfrog: see `ppvae.evaluation.ais.annealed`, whose cost this has.

    Raises:
        UsageError: betas that are not positive and rising, a number below one.
        PairError: see `ppvae.evaluation.log_joint.LogJoint`.
    """
    betas = tuple(float(beta) for beta in betas)
    if not betas or any(a >= b for a, b in zip((0.0, *betas), betas, strict=False)):
        raise UsageError(f"betas={betas}: use positive numbers that rise")
    if min(chains, leapfrog) < 1 or temperatures < len(betas):
        raise UsageError(
            f"chains={chains}, leapfrog={leapfrog}, temperatures={temperatures}: "
            f"use at least 1, 1 and {len(betas)}"
        )
    path, stops = _path(betas, temperatures)
    parts = []
    with evaluating(built, seed):
        for part in row_chunks(built, built.inputs(batch), chains):
            steps = pilot.tuned(built, part, path[1:], leapfrog, "prior")
            joint = LogJoint(built, part, chains, "prior")
            walk = pilot.Walk(joint, path, leapfrog, steps)
            run = enumerate(forward(joint.point(joint.draw()), path, walk), start=1)
            found = [_rate_and_distortion(*state, path[t]) for t, state in run if t in stops]
            rate, distortion = (torch.stack(column) for column in zip(*found, strict=True))
            parts.append((rate, distortion, walk.acceptance))
    return RateDistortion(betas, *(torch.cat(column, -1) for column in zip(*parts, strict=True)))


def _rate_and_distortion(log_weight: Tensor, point: Point, beta: float) -> tuple[Tensor, Tensor]:
    """(rate, distortion) of the code that draws one of K chains by its weight, (B,)."""
    log_likelihood = (point.log_densities[1] - point.log_densities[0]).double()
    distortion = -(log_weight.softmax(0) * log_likelihood).sum(0)
    log_z = log_weight.logsumexp(0) - math.log(len(log_weight))
    return -log_z - beta * distortion, distortion


def _path(betas: tuple[float, ...], temperatures: int) -> tuple[list[float], set[int]]:
    """A path from 0 through all of `betas`, and where on it they are.

    What the distortion varies by falls like 1 / beta once the data say more than the prior, so that even
    steps in log beta are even in what they change; from 0 to the first of `betas` the steps grow like t^3.
    """
    counts = [temperatures // len(betas) + (i < temperatures % len(betas)) for i in range(len(betas))]
    path, stops = [0.0], set()
    for i, (beta, count) in enumerate(zip(betas, counts, strict=True)):
        for j in range(1, count + 1):
            fraction = j / count
            path.append(beta * fraction**4 if i == 0 else betas[i - 1] ** (1 - fraction) * beta**fraction)
        path[-1] = beta
        stops.add(len(path) - 1)
    return path, stops

"""The transitions of an annealed run: their step sizes are tuned by a few chains of their own, then fixed.

A step that followed the chains it moves would break the invariance that annealed importance sampling rests
on. So a pilot walks the path first, with random numbers of its own, and the run that counts knows only what
the pilot left: one step size for each temperature and datum, and the start's width in each coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.evaluation.hmc import Point, transition
from ppvae.evaluation.log_joint import LogJoint, Start
from ppvae.shapes import Float

TARGET = 0.65
"""Acceptance probability that the steps are tuned to (Neal 2011)."""
CHAINS = 4
MOVES = 60
"""Moves at the first temperature, and as many along the path: at so many temperatures, or more often at
fewer."""
GAIN = 0.5
"""How far log(step) goes for each unit of acceptance above the target."""
DRAWS = 64
"""Draws of the start that its width is read off."""


@dataclass(frozen=True)
class Steps:
    """What a pilot leaves: the sizes of the steps at beta_1, beta_2, ..., and the width of each
    coordinate."""

    step: Float[Tensor, "T B"]
    scale: Float[Tensor, "B D"]


def tuned(
    built: Built, batch: Mapping[str, Tensor], betas: Sequence[float], leapfrog: int, start: Start
) -> Steps:
    """Steps whose transitions at each of `betas` accept about `TARGET` of their proposals.

    The pilot stops at some `MOVES` temperatures; those between two stops take the steps of the earlier one.
    """
    joint = LogJoint(built, batch, CHAINS, start)
    draws = torch.cat([joint.draw() for _ in range(DRAWS // CHAINS)])
    scale = draws.std(0).clamp(min=torch.finfo(draws.dtype).eps)
    point = joint.point(draws[:CHAINS])
    # A Gaussian of D coordinates takes steps that shrink with D^(-1/4) (Neal 2011, section 5.4.4).
    log_step = scale.new_full((len(scale),), -0.25 * math.log(joint.size))
    stride = -(-len(betas) // MOVES)
    steps = []
    for t in range(0, len(betas), stride):
        for i in range(MOVES if t == 0 else -(-MOVES // len(betas))):
            point, acceptance = transition(
                point, joint.point, geometric(betas[t]), log_step.exp(), scale, leapfrog
            )
            gain = max(GAIN, (1 + i) ** -0.6) if t == 0 else GAIN
            log_step = log_step + gain * (acceptance.mean(0) - TARGET)
        steps += [log_step.exp()] * min(stride, len(betas) - t)
    return Steps(torch.stack(steps), scale)


def geometric(beta: float) -> tuple[float, float]:
    """The coefficients of log f_0 and log f_1 at beta."""
    return 1.0 - beta, beta


class Walk:
    """Moves the chains of `joint` along the path, and keeps what they accept.

    `walk(t, point)` is a Hamiltonian transition that leaves f_(beta_t) invariant, t = 1, 2, ...; beyond the
    last temperature that the pilot tuned it leaves the chains where they are.
    """

    def __init__(self, joint: LogJoint, betas: Sequence[float], leapfrog: int, steps: Steps | None):
        self.joint, self.betas, self.leapfrog, self.steps = joint, betas, leapfrog, steps
        self._accepted: list[Tensor] = []

    def __call__(self, t: int, point: Point) -> Point:
        if self.steps is None or t > len(self.steps.step):
            return point
        point, acceptance = transition(
            point,
            self.joint.point,
            geometric(self.betas[t]),
            self.steps.step[t - 1],
            self.steps.scale,
            self.leapfrog,
        )
        self._accepted.append(acceptance.mean(0))
        return point

    @property
    def acceptance(self) -> Float[Tensor, " B"]:
        """The mean acceptance probability of each datum so far; nan before the first move."""
        if not self._accepted:
            _, rows = self.joint.shape
            return torch.full((rows,), math.nan, device=self.joint.built.device)
        return torch.stack(self._accepted).mean(0)

"""Hamiltonian Monte Carlo, batched over chains and data: K x B walks at once, each with its own decision.

A target is a log-linear family in N given log-densities, log f_c(u) = sum_i c_i l_i(u). With N = 1 it is any
density; with N = 2 and c = (1 - beta, beta) it is a point of the geometric path that annealing follows.
Keeping the l_i and their gradients apart means that a move to another c evaluates nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ppvae.shapes import Float

JITTER = 0.2
"""Steps vary by this much, drawn apart from the state: a fixed trajectory may be a whole period of a Gaussian
and come back to where it began."""


class Point(NamedTuple):
    """Where all chains are, and what is known there."""

    position: Float[Tensor, "K B D"]
    log_densities: Float[Tensor, "N K B"]
    gradients: Float[Tensor, "N K B D"]

    def log_density(self, coefficients: tuple[float, ...]) -> Float[Tensor, "K B"]:
        return _mixed(coefficients, self.log_densities)

    def gradient(self, coefficients: tuple[float, ...]) -> Float[Tensor, "K B D"]:
        return _mixed(coefficients, self.gradients)


Evaluate = Callable[[Tensor], Point]
"""From positions (K, B, D) to the point there."""


def transition(
    point: Point,
    evaluate: Evaluate,
    coefficients: tuple[float, ...],
    step: Tensor,
    scale: Tensor | float,
    leapfrog: int,
) -> tuple[Point, Float[Tensor, "K B"]]:
    """One move that leaves f_c invariant: (where the chains are then, their acceptance probabilities).

    A momentum r ~ N(0, I) is drawn; `leapfrog` steps of size e follow H = -log f_c(u) + |r|^2 / 2,

        r += e/2 s dlogf/du,   u += e s r,   r += e/2 s dlogf/du,

    and each (chain, datum) accepts with probability min(1, exp(H - H')). Leapfrog preserves volume and is its
    own inverse when the momentum is turned around, so that the move is reversible with respect to f_c for any
    fixed e and s (neither may depend on the state). A proposal whose energy is not finite is never accepted.

    Args:
        coefficients: c, one number for each log-density.
        step: e, which broadcasts against (K, B).
        scale: s, which broadcasts against (K, B, D): the target's own width in each coordinate, roughly.

    Reference: Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901.
    """
    jitter = 1 + JITTER * (2 * torch.rand_like(point.log_densities[0]) - 1)
    push = (step * jitter).unsqueeze(-1) * scale  # (K, B, D)
    momentum = torch.randn_like(point.position)
    before = _energy(point, coefficients, momentum)
    moved, momentum = integrate(point, evaluate, coefficients, push, momentum, leapfrog)
    fall = before - _energy(moved, coefficients, momentum)
    acceptance = torch.nan_to_num(fall.clamp(max=0.0).exp(), nan=0.0)
    accepted = torch.rand_like(acceptance) < acceptance
    return _where(accepted, moved, point), acceptance


def integrate(
    point: Point,
    evaluate: Evaluate,
    coefficients: tuple[float, ...],
    push: Tensor,
    momentum: Tensor,
    leapfrog: int,
) -> tuple[Point, Tensor]:
    """`leapfrog` steps of size `push`, (K, B, D), from (u, r) to (u', r'); evaluates the target once a
    step."""
    momentum = momentum + 0.5 * push * point.gradient(coefficients)
    for i in range(leapfrog):
        point = evaluate(point.position + push * momentum)
        half = 0.5 if i == leapfrog - 1 else 1.0
        momentum = momentum + half * push * point.gradient(coefficients)
    return point, momentum


def _energy(point: Point, coefficients: tuple[float, ...], momentum: Tensor) -> Float[Tensor, "K B"]:
    return 0.5 * momentum.square().sum(-1) - point.log_density(coefficients)


def _where(accepted: Tensor, yes: Point, no: Point) -> Point:
    rows = accepted.unsqueeze(-1)
    return Point(
        torch.where(rows, yes.position, no.position),
        torch.where(accepted, yes.log_densities, no.log_densities),
        torch.where(rows, yes.gradients, no.gradients),
    )


def _mixed(coefficients: tuple[float, ...], parts: Tensor) -> Tensor:
    # A coefficient of zero silences a density of minus infinity.
    kept = [c * part for c, part in zip(coefficients, parts, strict=True) if c != 0.0]
    return torch.stack(kept).sum(0) if kept else torch.zeros_like(parts[0])

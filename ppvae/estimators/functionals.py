"""What multi-sample bounds do to the log-weights of one datum: functionals from (K, B) to (B,), in nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ppvae.estimators.base import Functional


def mean(log_weight: Tensor) -> Tensor:
    """(1/K) sum_k log w_k: the ELBO."""
    return log_weight.mean(0)


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log (1/K) sum_k w_k: the importance-weighted bound."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def log_sum_of_others(log_weight: Tensor) -> Tensor:
    """log sum_{j != k} w_j for each particle k, (K, B); -inf of a single one. Sums from both sides leave the
    own weight out without subtracting it."""
    none = torch.full_like(log_weight[:1], -math.inf)
    before = torch.cat([none, log_weight.logcumsumexp(0)[:-1]])
    after = torch.cat([log_weight.flip(0).logcumsumexp(0).flip(0)[1:], none])
    return torch.logaddexp(before, after)


def mean_log_mean_exp(particles: int) -> Functional:
    """(1/M) sum_m log (1/K) sum_k w_mk over the M groups of K = `particles` rows each: the mean of M
    importance-weighted bounds."""

    def functional(log_weight: Tensor) -> Tensor:
        return log_weight.unflatten(0, (-1, particles)).logsumexp(1).mean(0) - math.log(particles)

    return functional


def mixed(share: Tensor | float) -> Functional:
    """share (1/K) sum_k log w_k + (1 - share) log (1/K) sum_k w_k."""

    def functional(log_weight: Tensor) -> Tensor:
        return share * mean(log_weight) + (1 - share) * log_mean_exp(log_weight)

    return functional


def renyi(alpha: float) -> Functional:
    """1 / (1 - alpha) log (1/K) sum_k w_k^(1 - alpha); for alpha = 1 its limit, the mean of log w."""

    def functional(log_weight: Tensor) -> Tensor:
        if alpha == 1:
            return mean(log_weight)
        return log_mean_exp((1 - alpha) * log_weight) / (1 - alpha)

    return functional


def cubo(order: float) -> Functional:
    """(1/n) log (1/K) sum_k w_k^n, n = `order`: the estimate of the chi upper bound."""

    def functional(log_weight: Tensor) -> Tensor:
        return log_mean_exp(order * log_weight) / order

    return functional


def thermodynamic(points: Sequence[float], side: str = "lower") -> Functional:
    """sum_i (b_(i+1) - b_i) sum_k v_k log w_k with v = softmax(b_i log w), over the partition `points` of
    [0, 1]: the left Riemann sum; `side="upper"` weighs by b_(i+1) instead, the right one."""

    def functional(log_weight: Tensor) -> Tensor:
        total = torch.zeros_like(log_weight[0])
        for left, right in pairwise(points):
            weight = ((left if side == "lower" else right) * log_weight).softmax(0)
            total = total + (right - left) * (weight * log_weight).sum(0)
        return total

    return functional

"""How the importance-weighted bound tightens as K grows, from one set of draws."""

from __future__ import annotations

import math

from torch import Tensor

from ppvae.shapes import Float


def ladder(k: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below k, and k itself."""
    steps = (first * 10**power for power in range(len(str(k))) for first in (1, 2, 5))
    return [*(step for step in steps if step < k), k]


def block_bound(log_weight: Float[Tensor, "K B"], k: int) -> Float[Tensor, " B"]:
    """L_k of each datum in nats, from K >= k draws: the mean over their J = K // k disjoint blocks of k,

        (1/J) sum_j log (1/k) sum_{i in block j} w_i,   E = L_k = E log (1/k) sum_{i <= k} w_i.

    Unbiased for L_k, because blocks are independent and each is a draw of the bound; draws beyond J k are
    left out. The more blocks, the smaller the error, so that small k are estimated best. L_k is a lower bound
    that never falls in k (Burda et al. 2016), and log p - L_k ~ Var(w) / (2 k p^2). The estimates keep that
    order exactly where k divides the next k and both divide K, by Jensen's inequality within the larger
    blocks, and in expectation elsewhere.
    """
    blocks = len(log_weight) // k
    kept = log_weight[: blocks * k].unflatten(0, (blocks, k))
    return (kept.logsumexp(1) - math.log(k)).mean(0)

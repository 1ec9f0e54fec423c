"""What multi-sample bounds do to the log-weights of one datum: functionals from (K, B) to (B,), in nats."""

from __future__ import annotations

import math

from torch import Tensor


def mean(log_weight: Tensor) -> Tensor:
    """(1/K) sum_k log w_k: the ELBO."""
    return log_weight.mean(0)


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log (1/K) sum_k w_k: the importance-weighted bound."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))

"""How far importance weights can be trusted, datum by datum: Pareto k-hat and effective sample size.

The largest M = ceil(min(K / 5, 3 sqrt(K))) of K weights are taken for draws of a generalized Pareto
distribution above the next smaller one,

    p(w - u) = (1 / sigma) (1 + k (w - u) / sigma)^(-1/k - 1),

whose shape k says how many moments the weights have: those of order below 1 / k. k-hat < 0.5: the variance is
finite, as the central limit theorem wants it; < 0.7: the estimate is still of use at practical K; above it,
neither the estimate nor its standard error means anything. The same number tells whether q is near the
posterior: k-hat is 1 - s^2 for a guide N(0, s^2) that is narrower than its posterior N(0, 1).

References: Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto Smoothed Importance Sampling,
arXiv:1507.02646; Zhang & Stephens (2009), A New and Efficient Estimation Method for the Generalized Pareto
Distribution (the fit); Yao, Vehtari, Simpson & Gelman (2018), Yes, but Did It Work?, arXiv:1802.02538 (k-hat
as a diagnostic of a guide).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.errors import UsageError
from ppvae.shapes import Bool, Float, Int

FEWEST = 21
"""Draws below which the tail has fewer than five members, of which no shape can be fitted."""
UNRELIABLE = 0.7
"""k-hat above which the weights are not to be trusted at any K that one can afford."""
_PRIOR_DRAWS, _PRIOR_SHAPE = 10.0, 0.5  # the weak prior on the shape, worth ten draws at 0.5
_ROUNDING = 32.0


@dataclass(frozen=True)
class Smoothed:
    """`log_weight` with the tail of each datum replaced by the quantiles of the fitted distribution."""

    k_hat: Float[Tensor, " B"]
    """-inf where the weights have no tail: all are equal up to rounding (the guide is exact), or the whole
    tail is one value. inf where fewer than five weights lie above the rest, so that one or a few dominate.
    NaN where a log-weight is NaN or inf, or where all are -inf."""
    log_weight: Float[Tensor, "K B"]
    """Not normalized: their logsumexp less log K estimates log p(x). float64."""


def tail_size(k: int) -> int:
    """M, the number of weights that the shape is fitted to."""
    return math.ceil(min(k / 5, 3 * math.sqrt(k)))


def psis(log_weight: Float[Tensor, "K B"]) -> Smoothed:
    """Pareto-smoothed importance sampling of each column by itself, in float64 on the tensor's device.

    Nothing is read back from the device. Ties shorten a tail: its members lie strictly above the threshold.

    Raises:
        UsageError: fewer than 21 draws.
    """
    if len(log_weight) < FEWEST:
        raise UsageError(f"k={len(log_weight)}: a k-hat needs {FEWEST} draws or more")
    size = tail_size(len(log_weight))
    weight = log_weight.double()
    top = weight.max(0).values
    largest, place = (weight - top).topk(size + 1, dim=0)
    largest, place = largest.flip(0), place.flip(0)  # ascending, the threshold first
    threshold = largest[0].clamp(min=math.log(torch.finfo(torch.float64).tiny))
    tail, place = largest[1:], place[1:]
    inside = tail > threshold
    count = inside.sum(0)
    excess = torch.where(inside, tail.exp() - threshold.exp(), 0.0)
    shape, sigma = _fit(excess, count)

    enough = (count > 4) & shape.isfinite() & (sigma > 0)
    quantiles = _quantiles(shape, sigma, count, size)
    smooth = (quantiles + threshold.exp()).log().clamp(max=0.0)  # not above the largest raw weight
    tail = torch.where(inside & enough, smooth, tail)
    smoothed = weight.scatter(0, place, tail + top)

    k_hat = torch.where(count > 4, shape, math.inf)
    k_hat = torch.where((count == 0) | _equal(log_weight), -math.inf, k_hat)
    undefined = weight.isnan().any(0) | ~top.isfinite()
    return Smoothed(torch.where(undefined, math.nan, k_hat), smoothed)


def effective_sample_size(log_weight: Float[Tensor, "K B"]) -> Float[Tensor, " B"]:
    """(sum_k w_k)^2 / sum_k w_k^2, of each datum: from 1, one draw counts, to K, all count alike. float64.

    As K grows, ESS / K falls to 1 / (1 + chi^2(posterior, q)); in too few draws it looks better than it is.
    """
    weight = log_weight.double()
    return (2 * weight.logsumexp(0) - (2 * weight).logsumexp(0)).exp()


def _equal(log_weight: Float[Tensor, "K B"]) -> Bool[Tensor, " B"]:
    """Whether the weights of a datum differ by rounding only, in the type that they were computed in."""
    low, high = log_weight.aminmax(dim=0)
    return high - low <= _ROUNDING * torch.finfo(log_weight.dtype).eps * high.abs().clamp(min=1.0)


def _fit(excess: Float[Tensor, "M B"], count: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
    """Shape and scale (B,) of a generalized Pareto distribution; the last `count` rows of `excess` are its
    draws, ascending, the others zero.

    The posterior mean of b = -k / sigma on a grid, as Zhang & Stephens (2009) have it, with the likelihood
    profiled over k(b) = mean log(1 - b x), and k drawn towards the prior.
    """
    draws = count.double()
    size = 30 + draws.sqrt().floor()
    steps = torch.arange(1, 31 + math.isqrt(len(excess)), dtype=draws.dtype, device=draws.device)
    quartile = (len(excess) - count + (count / 4 + 0.5).floor().long() - 1).clamp(0, len(excess) - 1)
    scale = excess.gather(0, quartile[None])
    b = (1 - (size / (steps[:, None] - 0.5)).sqrt()) / (3 * scale) + 1 / excess[-1]
    # Rows that are no draws are zero and add nothing; row by row, the grid never multiplies the memory.
    k = torch.stack([torch.log1p(-row * excess).sum(0) for row in b]) / draws
    profile = draws * ((-b / k).log() - k - 1)
    profile = profile.masked_fill(profile.isnan() | (steps[:, None] > size), -math.inf)
    belief = profile.softmax(0)
    belief = belief * (belief >= 10 * torch.finfo(belief.dtype).eps)
    b = (torch.where(belief > 0, b, 0.0) * belief).sum(0) / belief.sum(0)
    k = torch.log1p(-b * excess).sum(0) / draws
    return (draws * k + _PRIOR_DRAWS * _PRIOR_SHAPE) / (draws + _PRIOR_DRAWS), -k / b


def _quantiles(shape: Tensor, sigma: Tensor, count: Tensor, size: int) -> Float[Tensor, "M B"]:
    """Quantiles (i - 1/2) / count of the fitted distribution, in the last `count` of `size` rows."""
    rows = torch.arange(size, dtype=shape.dtype, device=shape.device)[:, None]
    log_above = torch.log1p(-((rows - (size - count) + 0.5) / count).clamp(0.0, 1.0))
    flat = shape.abs() < torch.finfo(shape.dtype).eps
    bent = torch.expm1(-shape * log_above) / torch.where(flat, 1.0, shape)
    return sigma * torch.where(flat, -log_above, bent)

"""What is said of a gradient estimator, as functions of the moments of its repeats.

g is one estimate of the gradient of a group of parameters, a vector of P entries; mu = E g, C = Cov g; the
bar is the mean over R repeats. Two traps, and what is done about them:

**Norms of means are too large.** E |bar g|^2 = |mu|^2 + tr C / R, so that noise looks like signal, and an
unbiased estimator like one whose bias is sqrt(tr C / R). The noise is taken out: |bar g|^2 - tr C / R has the
mean |mu|^2. It may come out negative; its root is then 0.

**A direction learnt from the numbers that are projected on it fits their noise.** Directions are therefore
learnt from the first half of the repeats, and only the second half is projected on them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppvae.comparison.moments import Estimate, Moments, mean_of


def root(square: float, stderr: float) -> Estimate:
    """sqrt(max(0, s)) with the standard error sqrt(max(0, s) + se) - sqrt(max(0, s)): se / (2 sqrt s) where s
    is sure, sqrt(se) where it is nothing but noise. What is no number stays none."""
    if math.isnan(square) or math.isnan(stderr):  # max(0, nan) is 0
        return Estimate(math.nan, math.nan)
    value = math.sqrt(max(0.0, square))
    return Estimate(value, math.sqrt(max(0.0, square) + stderr) - value)


def squared_norm(moments: Moments, along: float) -> Estimate:
    """|mu|^2 without the noise's share, |bar g|^2 - tr C / R.

    Its variance for Gaussian g is 2 tr C^2 / (R (R - 1)) + 4 mu' C mu / R; `along` is u' C u for the
    direction u of mu.
    """
    count = moments.count
    value = float(moments.mean.square().sum()) - moments.variance.value / count
    spread = 2 * _spread(moments) ** 2 + 4 * max(0.0, value) * along / count
    return Estimate(value, math.sqrt(max(0.0, spread)))


def signal_to_noise(moments: Moments, square: float) -> float:
    """SNR = |mu| / sqrt(tr C), of the whole vector; `square` is |mu|^2. Infinite without noise."""
    return _ratio(math.sqrt(max(0.0, square)), math.sqrt(moments.variance.value))


def signal_to_noise_per_parameter(moments: Moments) -> float | None:
    """(1/P) sum_p |bar g_p| / sd(g_p) over the parameters that the gradient reaches (Rainforth et al. 2018).

    R repeats read sqrt(2 / (pi R)) for a parameter whose true gradient is 0. None if it reaches none.
    """
    deviation, size = moments.deviation, moments.mean.abs()
    reached = (deviation > 0) | (size > 0)
    found = (size / deviation)[reached]
    return float(found.mean()) if len(found) else None


def directional(vector: Tensor, unit: Tensor) -> Tensor:
    """|g_par| / |g_perp| of one gradient, g_par = (g . u) u along the unit vector u, g_perp = g - g_par.

    Its mean over g, with u = mu / |mu|, is the directional signal-to-noise ratio, DSNR = E |g_par| / |g_perp|
    (Rainforth et al. 2018): how far a step goes where it should against how far it goes astray. A gradient of
    zero goes nowhere: 0.
    """
    vector = vector.double()
    along = vector @ unit
    return (along.abs() / (vector - along * unit).norm()).nan_to_num(0.0, posinf=math.inf)


LEAST_PARAMETERS = 3
"""With one parameter nothing goes astray; with two, 1 / |g_perp| has no mean. DSNR then says nothing."""


def unit(vector: Tensor) -> Tensor:
    """The vector at length 1; zeros stay."""
    norm = vector.norm()
    return torch.where(norm > 0, vector / norm, torch.zeros_like(vector))


def squared_bias(own: Moments, truth: Moments | None, exact: Tensor | None, along: float) -> Estimate:
    """|E g - truth|^2 without the noise's share, |bar g - bar t|^2 - tr C / R - tr C_t / R_t.

    `exact` is a truth without error, else `truth` holds its repeats. The variance is 2 tr S^2 + 4 b' S b with
    S = C / R + C_t / R_t and b the bias (and R (R - 1) for R^2, as above); tr(C C_t) is at most
    sqrt(tr C^2 tr C_t^2), which is put for it. `along` is u' S u for the direction u of b.
    """
    wanted = truth.mean if exact is None else exact.double()  # type: ignore[union-attr]
    value = float((own.mean - wanted).square().sum()) - own.variance.value / own.count
    spread = _spread(own)
    if exact is None:
        assert truth is not None
        value -= truth.variance.value / truth.count
        spread += _spread(truth)
    return Estimate(value, math.sqrt(2 * spread**2 + 4 * max(0.0, value) * along))


def z_of_bias(own: list[Tensor], truth: list[Tensor] | None, exact: float, rounding: float) -> float:
    """(mean of u . g - mean of u . t) / standard error, over repeats that had no part in choosing u. Where
    `truth` is None, `exact` is u . t.

    u is the direction in which the first half of the repeats differed from the truth. Of an unbiased
    estimator, z is a standard normal number; a bias makes it large and positive. `rounding` is the error of
    the arithmetic itself. NaN where a repeat is no number.
    """
    first, second = mean_of(own), Estimate(exact) if truth is None else mean_of(truth)
    error = math.hypot(first.stderr or 0.0, second.stderr or 0.0, rounding)
    return 0.0 if error == 0 else (first.value - second.value) / error


def _spread(moments: Moments) -> float:
    """sqrt(tr C^2 / (R (R - 1)))."""
    return math.sqrt(moments.trace_of_square / (moments.count * (moments.count - 1)))


def _ratio(signal: float, noise: float) -> float:
    if noise > 0:
        return signal / noise
    return math.inf if signal > 0 else 0.0

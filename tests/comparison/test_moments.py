"""Streaming moments against the moments of the stacked vectors, and what is said of them against formulas."""

import math

import pytest
import torch

from ppvae.comparison.measures import (
    directional,
    root,
    signal_to_noise,
    signal_to_noise_per_parameter,
    squared_bias,
    squared_norm,
    unit,
    z_of_bias,
)
from ppvae.comparison.moments import Estimate, Moments, mean_of

MU = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
FACTOR = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.3, 0.4]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T


def draws(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return MU + torch.randn(count, 3, generator=generator, dtype=torch.float64) @ FACTOR.T


def moments_of(vectors: torch.Tensor) -> Moments:
    found = Moments()
    for vector in vectors:
        found.add(vector)
    return found


def test_mean_and_variance_are_those_of_the_stack():
    vectors = draws(41)
    found = moments_of(vectors)
    assert (found.count, found.size) == (41, 3)
    torch.testing.assert_close(found.mean, vectors.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.deviation, vectors.std(0), rtol=1e-12, atol=1e-12)
    assert found.variance.value == pytest.approx(float(vectors.var(0).sum()), rel=1e-12)


def test_float32_vectors_are_summed_in_float64():
    vectors = 1e4 + draws(2000)
    found = moments_of(vectors.float())
    assert found.variance.value == pytest.approx(float(vectors.float().double().var(0).sum()), rel=1e-9)


def test_the_standard_error_of_the_variance_is_that_of_the_neighbours_differences():
    vectors = draws(40)
    halves = (vectors[1::2] - vectors[::2]).square().sum(-1) / 2
    assert moments_of(vectors).variance.stderr == pytest.approx(
        float(halves.std()) / math.sqrt(20), rel=1e-12
    )


def test_the_trace_of_the_squared_covariance():
    """Within 3 standard errors: 4,000 draws, seed 0."""
    vectors = draws(4000)
    differences = (vectors[1::2] - vectors[::2]) / math.sqrt(2.0)
    products = (differences[1:] * differences[:-1]).sum(-1).square()
    found = moments_of(vectors).trace_of_square
    assert found == pytest.approx(float(products.mean()), rel=1e-12)
    error = float(products.std()) / math.sqrt(len(products) / 2)  # neighbours share a difference
    assert abs(found - float((COVARIANCE @ COVARIANCE).trace())) < 3 * error


def test_mean_of_few():
    assert math.isnan(mean_of([]).value)
    assert mean_of([torch.tensor(2.0)]) == Estimate(2.0)
    assert mean_of([torch.tensor(1.0), torch.tensor(3.0)]) == Estimate(2.0, 1.0)


# ---- norms without the noise


def along(unit_vector: torch.Tensor) -> float:
    return float(unit_vector @ COVARIANCE @ unit_vector)


def test_the_norm_has_the_noise_taken_out():
    """3,000 means of 10 draws, seed 1: |bar g|^2 is 14 % of tr C too large, the corrected one is right."""
    found = [moments_of(part) for part in draws(30_000, seed=1).view(3000, 10, 3)]
    plain = torch.tensor([float(m.mean.square().sum()) for m in found])
    direction = along(unit(MU))
    fixed = torch.tensor([squared_norm(m, direction).value for m in found])
    error = float(fixed.std()) / math.sqrt(len(fixed))
    truth = float(MU.square().sum())
    assert abs(float(fixed.mean()) - truth) < 3 * error
    assert abs(float(plain.mean()) - truth - float(COVARIANCE.trace()) / 10) < 3 * error
    assert float(plain.mean()) - truth > 30 * error


def test_the_norms_standard_error_is_its_standard_deviation():
    """3,000 means of 10 draws, seed 2: its square is right within 15 %."""
    found = [moments_of(part) for part in draws(30_000, seed=2).view(3000, 10, 3)]
    estimates = [squared_norm(m, along(unit(MU))) for m in found]
    spread = float(torch.tensor([e.value for e in estimates]).var())
    said = float(torch.tensor([(e.stderr or 0.0) ** 2 for e in estimates]).mean())
    assert said == pytest.approx(spread, rel=0.15)


def test_the_bias_has_the_noise_of_both_taken_out():
    """2,000 pairs of an estimator and a reference with the same mean, seeds 10 and 11: |bias|^2 is 0 on
    average, and its standard error, squared, right within 20 %."""
    own = [moments_of(part) for part in draws(20_000, seed=10).view(2000, 10, 3)]
    truth = [moments_of(part) for part in draws(20_000, seed=11).view(2000, 10, 3)]
    values = torch.tensor([squared_bias(a, b, None, 0.0).value for a, b in zip(own, truth, strict=True)])
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean())) < 3 * error
    raw = torch.tensor([float((a.mean - b.mean).square().sum()) for a, b in zip(own, truth, strict=True)])
    assert float(raw.mean()) > 30 * error
    errors = [squared_bias(a, b, None, 0.0).stderr or 0.0 for a, b in zip(own, truth, strict=True)]
    assert float(torch.tensor(errors).square().mean()) == pytest.approx(float(values.var()), rel=0.2)


def test_the_bias_from_an_exact_truth():
    vectors = draws(30)
    found = moments_of(vectors)
    truth = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    wanted = float((vectors.mean(0) - truth).square().sum() - vectors.var(0).sum() / 30)
    assert squared_bias(found, None, truth, 0.0).value == pytest.approx(wanted, rel=1e-12)


def test_root():
    assert root(4.0, 0.04).value == 2.0
    assert root(4.0, 0.04).stderr == pytest.approx(0.01, rel=1e-2)
    assert root(-3.0, 0.25) == Estimate(0.0, 0.5)


# ---- ratios


def test_signal_to_noise_by_its_formula():
    vectors = draws(50)
    found = moments_of(vectors)
    square = squared_norm(found, 0.0).value
    wanted = math.sqrt(square) / math.sqrt(float(vectors.var(0).sum()))
    assert signal_to_noise(found, square) == pytest.approx(wanted, rel=1e-12)
    each = vectors.mean(0).abs() / vectors.std(0)
    assert signal_to_noise_per_parameter(found) == pytest.approx(float(each.mean()), rel=1e-12)


def test_a_gradient_without_noise_has_an_infinite_ratio_and_none_no_ratio():
    still = moments_of(torch.ones(6, 2, dtype=torch.float64))
    assert signal_to_noise(still, 2.0) == math.inf
    assert signal_to_noise_per_parameter(still) == math.inf
    nothing = moments_of(torch.zeros(6, 2, dtype=torch.float64))
    assert signal_to_noise(nothing, 0.0) == 0.0
    assert signal_to_noise_per_parameter(nothing) is None


def test_parameters_that_no_gradient_reaches_do_not_count():
    vectors = torch.cat([draws(20), torch.zeros(20, 5, dtype=torch.float64)], 1)
    assert signal_to_noise_per_parameter(moments_of(vectors)) == signal_to_noise_per_parameter(
        moments_of(vectors[:, :3])
    )


def test_the_directional_ratio():
    """(3, 4, 12) along (1, 0, 0): 3 against sqrt(160)."""
    u = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    found = directional(torch.tensor([-3.0, 4.0, 12.0]), u)
    assert float(found) == pytest.approx(3 / math.sqrt(160), rel=1e-12)
    assert float(directional(torch.zeros(3), u)) == 0.0
    assert float(directional(2.0 * u, u)) == math.inf


def test_z_by_its_formula():
    own = [torch.tensor(v) for v in (1.0, 2.0, 3.0)]
    theirs = [torch.tensor(v) for v in (0.0, 1.0)]
    error = math.hypot(1 / math.sqrt(3), math.sqrt(0.5) / math.sqrt(2))
    assert z_of_bias(own, theirs, 0.0, 0.0) == pytest.approx((2 - 0.5) / error, rel=1e-12)
    assert z_of_bias(own, None, 1.0, 0.0) == pytest.approx(1 * math.sqrt(3), rel=1e-12)
    assert z_of_bias([torch.tensor(1.0)] * 3, None, 1.0 - 1e-9, 1e-8) == pytest.approx(0.1)
    assert z_of_bias([torch.tensor(1.0)] * 3, None, 1.0, 0.0) == 0.0


def test_unit():
    torch.testing.assert_close(unit(torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]))
    assert torch.equal(unit(torch.zeros(2)), torch.zeros(2))


def test_what_is_no_number_stays_none():
    """max(0, nan) is 0, and nan > 0 is false: a gradient of NaN would have no bias."""
    nan = torch.tensor(math.nan)
    for square, stderr in ((math.nan, math.nan), (math.nan, 0.1), (1.0, math.nan)):
        found = root(square, stderr)
        assert math.isnan(found.value)
        assert found.stderr is not None
        assert math.isnan(found.stderr)
    assert math.isnan(z_of_bias([nan] * 3, None, 0.0, 0.0))
    assert math.isnan(z_of_bias([torch.tensor(1.0)] * 2, [nan] * 3, 0.0, 0.0))
    assert z_of_bias([torch.tensor(1.0)] * 2, None, 1.0, 0.0) == 0.0

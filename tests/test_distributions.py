"""Likelihoods: normalized, finite at extremes, and clear about the data they cannot have produced."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppvae.distributions import (
    KINDS,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Likelihood,
    OneHotCategorical,
)
from ppvae.errors import DataError, UsageError

LOCS = [-1e6, -3.0, 0.0, 1 / 3, 0.5, 1.0, 4.0, 1e6]
SCALES = [1e-8, 5e-4, 0.01, 0.3, 10.0, 1e6]


def bytes_grid(dtype, levels=256):
    return (torch.arange(levels, dtype=dtype) / (levels - 1))[:, None, None]


def at_extremes(dtype):
    loc, scale = torch.tensor(LOCS, dtype=dtype)[:, None], torch.tensor(SCALES, dtype=dtype)
    return loc.requires_grad_(), scale.requires_grad_()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_sums_to_one(dtype, error, levels):
    loc, scale = at_extremes(dtype)
    log_prob = DiscretizedLogistic(loc, scale, levels).log_prob(bytes_grid(dtype, levels))
    assert log_prob.isfinite().all()
    assert (log_prob.exp().sum(0) - 1).abs().max() < error


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_discretized_logistic_gradients_are_finite(dtype):
    loc, scale = at_extremes(dtype)
    d = DiscretizedLogistic(loc, scale)
    # Beyond float32's range are only slopes that are there: d log_prob / d scale ~ distance / scale^2.
    weight = (d.scale > 1e-5) | (d.loc.abs() < 10)
    (d.log_prob(bytes_grid(dtype)) * weight).sum().backward()
    assert loc.grad is not None
    assert scale.grad is not None
    assert loc.grad.isfinite().all()
    assert scale.grad.isfinite().all()


def test_discretized_logistic_equals_the_difference_of_sigmoids():
    loc, scale = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.02, dtype=torch.float64)
    k = torch.arange(256, dtype=torch.float64)

    def cdf(edge):
        return torch.sigmoid((edge / 255 - loc) / scale)

    p = cdf(k + 0.5) - cdf(k - 0.5)
    p[0], p[255] = cdf(k[0] + 0.5), 1 - cdf(k[255] - 0.5)
    log_prob = DiscretizedLogistic(loc, scale).log_prob(k / 255)
    torch.testing.assert_close(log_prob.exp(), p, atol=1e-14, rtol=1e-9)
    mean = (p * k).sum() / 255
    d = DiscretizedLogistic(loc, scale)
    torch.testing.assert_close(d.mean, mean)
    torch.testing.assert_close(d.variance, (p * (k / 255 - mean) ** 2).sum())


def test_discretized_logistic_far_tail_is_exact():
    # log(sigmoid(a) - sigmoid(b)) -> a + log(1 - exp(b - a)) for a -> -inf, where the difference underflows.
    d = DiscretizedLogistic(torch.tensor(50.0), torch.tensor(0.01))
    k = 100
    expected = (k + 0.5 - 50 * 255) / 2.55 + math.log(-math.expm1(-1 / 2.55))
    assert abs(float(d.log_prob(torch.tensor(k / 255))) / expected - 1) < 1e-6


@pytest.mark.parametrize(("loc", "scale", "levels"), [(0.3, 0.05, 17), (0.95, 0.2, 17), (0.5, 0.004, 256)])
def test_discretized_logistic_draws_have_its_frequencies(loc, scale, levels):
    torch.manual_seed(4)
    draws, d = 40_000, DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale), levels)
    x = d.sample((draws,))
    counts = torch.bincount((x * (levels - 1)).round().long(), minlength=levels).double()
    expected = draws * d.log_prob(bytes_grid(torch.float32, levels).flatten()).exp().double()
    kept = expected >= 5
    rest = draws - expected[kept].sum()
    chi2 = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    chi2 += (draws - counts[kept].sum() - rest) ** 2 / max(float(rest), 5.0)
    freedom = int(kept.sum())
    # chi^2 has mean f and variance 2 f: four standard deviations, one seed.
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)
    assert DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale), levels).support.check(x).all()


def test_discretized_logistic_refuses_values_off_the_grid():
    d = DiscretizedLogistic(torch.tensor([0.5]), torch.tensor([0.1]), validate_args=True)
    d.log_prob(torch.tensor([3 / 255]))
    for value in (0.5, -1 / 255, 256 / 255, math.nan, 3.02 / 255):
        with pytest.raises(ValueError, match="support"):
            d.log_prob(torch.tensor([value]))
    with pytest.raises(UsageError, match="at least 2"):
        DiscretizedLogistic(torch.tensor(0.5), torch.tensor(0.1), levels=1)


@pytest.mark.parametrize(
    "d", [DiscretizedLogistic(torch.rand(3), torch.rand(3)), ContinuousBernoulli(torch.randn(3))]
)
def test_distributions_behave_as_pyros(d):
    big = d.expand((2, 3))
    assert big.batch_shape == (2, 3)
    assert big.sample((4,)).shape == (4, 2, 3)
    x = d.sample()
    torch.testing.assert_close(big.log_prob(x)[1], d.log_prob(x))
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(d.mask(mask).to_event(1).log_prob(x), (d.log_prob(x) * mask).sum())
    assert d.mean.shape == d.variance.shape == (3,)
    with pyro.plate("data", 3):
        assert pyro.sample("x", d, obs=x) is x


LOGITS = [-1e6, -300.0, -20.0, -1.0, -0.02, -1e-4, 0.0, 1e-6, 0.1, 0.19, 0.21, 2.0, 50.0, 1e6]


def quadrature(logits: Tensor, moment: int = 0) -> Tensor:
    """int_0^1 x^moment p(x) dx by 200 Gauss-Legendre points on pieces that shrink towards both ends."""
    import numpy as np

    nodes, weights = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(200))
    near = torch.tensor([0.0, *(10.0**k for k in range(-8, 0)), 0.5], dtype=torch.float64)
    edges = torch.cat([near, (1 - near.flip(0))[1:]])
    half = (edges[1:] - edges[:-1]) / 2
    x = (edges[:-1] + half)[:, None] + half[:, None] * nodes
    p = ContinuousBernoulli(logits[:, None, None]).log_prob(x).exp()
    return (half[:, None] * weights * x**moment * p).sum((-1, -2))


def test_continuous_bernoulli_is_normalized_and_has_its_moments():
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    d = ContinuousBernoulli(logits)
    assert (quadrature(logits) - 1).abs().max() < 1e-9
    mean = quadrature(logits, 1)
    assert (d.mean - mean).abs().max() < 1e-6
    # E x^2 - (E x)^2 loses what is below 1e-9 to cancellation.
    assert (d.variance - (quadrature(logits, 2) - mean**2)).abs().max() < 1e-6


def test_continuous_bernoulli_is_torchs_where_that_is_normalized():
    logits = torch.linspace(-10, 10, 41, dtype=torch.float64)
    x = torch.rand(41, dtype=torch.float64)
    torch.testing.assert_close(
        ContinuousBernoulli(logits).log_prob(x),
        dist.ContinuousBernoulli(logits=logits).log_prob(x),
        atol=1e-6,
        rtol=0,
    )


def test_continuous_bernoulli_draws_by_its_inverse_cdf():
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    d = ContinuousBernoulli(logits)
    u = torch.tensor([0.001, 0.3, 0.7, 0.999], dtype=torch.float64)[:, None]
    x = d.icdf(u)
    inside = logits.abs() < 30
    far = torch.expm1(logits[inside] * x[:, inside]) / torch.expm1(
        torch.where(logits == 0, 1.0, logits)[inside]
    )
    cdf = torch.where(logits[inside].abs() < 1e-3, x[:, inside], far)
    assert (cdf - u).abs().max() < 3e-3  # near 0 the density is taken as flat within 1e-2
    torch.manual_seed(5)
    draws = d.sample((20_000,))
    error = (draws.mean(0) - d.mean).abs() / (d.variance / 20_000).sqrt()
    assert error.max() < 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("word", KINDS)
def test_likelihoods_are_finite_at_extremes(word, dtype):
    """Raw outputs up to 1e8, above what any net gives: log p and its gradient stay finite."""
    size = torch.tensor([0.0, 1.0, 30.0, 100.0, 1e4, 1e8], dtype=dtype)
    size = torch.cat([size, -size])
    likelihood = Likelihood(word, (1,))
    grid = (
        torch.cartesian_prod(*[size] * likelihood.parameters)
        .reshape(-1, likelihood.parameters)
        .requires_grad_()
    )
    for value in (0.0, 1.0):
        log_prob = likelihood(grid, torch.full((len(grid), 1), value, dtype=dtype)).log_prob(
            torch.full((len(grid), 1), value, dtype=dtype)
        )
        assert log_prob.shape == (len(grid),)
        assert log_prob.isfinite().all()
        (gradient,) = torch.autograd.grad(log_prob.sum(), grid)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("word", KINDS)
@pytest.mark.parametrize("x_shape", [(3,), (3, 4, 5)])
def test_likelihood_shapes_and_mask(word, x_shape):
    torch.manual_seed(6)
    likelihood = Likelihood(word, x_shape)
    raw = torch.randn(7, 2, *likelihood.raw_shape)
    d = likelihood(raw)
    assert (d.batch_shape, d.event_shape) == ((7, 2), x_shape)
    x = d.sample()[0]
    likelihood.check(x)
    mask = torch.rand(2, *x_shape) < 0.5
    # Masked entries do not count, and half the mask and the other half make the whole.
    halves = likelihood(raw, x, mask).log_prob(x) + likelihood(raw, x, ~mask).log_prob(x)
    torch.testing.assert_close(halves, d.log_prob(x), rtol=1e-4, atol=1e-4)
    other = torch.where(mask, x, torch.zeros_like(x))
    torch.testing.assert_close(likelihood(raw, x, mask).log_prob(x), likelihood(raw, x, mask).log_prob(other))


def test_gaussian_has_a_mean_and_a_diagonal_covariance_of_its_own():
    likelihood = Likelihood("gaussian", (2, 3, 3))
    assert likelihood.raw_shape == (4, 3, 3)
    raw = torch.randn(5, 4, 3, 3)
    d = likelihood(raw)
    torch.testing.assert_close(d.mean, raw[:, :2])
    torch.testing.assert_close(d.variance.sqrt(), 1 / 255 + torch.nn.functional.softplus(raw[:, 2:]))


@pytest.mark.parametrize(
    ("word", "value", "text"),
    [
        ("bernoulli", 0.5, "--binarization dynamic"),
        ("bernoulli", math.nan, "binarize"),
        ("continuous_bernoulli", 1.5, "scale the data"),
        ("gaussian", math.inf, "finite"),
        ("discretized_logistic", 0.5, "k/255"),
    ],
)
def test_impossible_data_are_refused_with_what_to_do(word, value, text):
    likelihood = Likelihood(word, (2,))
    x = torch.tensor([[0.0, value]])
    raw = torch.zeros(1, 2 * likelihood.parameters)
    with pytest.raises(DataError, match=text):
        likelihood(raw, x)
    with dist.validation_enabled(False):
        likelihood(raw, x)  # no number is read off the device in a step


def test_an_unknown_likelihood_has_a_nearest():
    with pytest.raises(UsageError, match="did you mean 'bernoulli'"):
        Likelihood("bernouli", (2,))


def test_bernoulli_starts_at_the_log_odds():
    likelihood = Likelihood("bernoulli", (1, 2))
    mean = torch.tensor([[0.25, 0.0]])
    torch.testing.assert_close(likelihood(likelihood.start(mean)[None]).mean, torch.tensor([[[0.25, 0.001]]]))
    with pytest.raises(UsageError, match="no start"):
        Likelihood("gaussian", (1, 2)).start(mean)


def test_one_hot_draws_follow_their_probabilities():
    """100,000 draws of each of two laws (seed 0): frequencies within 5 standard errors, one 1 in each row."""
    probs = torch.tensor([[0.7, 0.2, 0.08, 0.02], [0.01, 0.09, 0.4, 0.5]])
    q = OneHotCategorical(probs=probs).expand((3, 2))
    x = q.sample((100_000,))
    assert x.shape == (100_000, 3, 2, 4)
    assert torch.equal(x.sum(-1), torch.ones(100_000, 3, 2))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    error = (probs * (1 - probs) / 100_000).sqrt()
    assert ((x.mean(0) - probs).abs() <= 5 * error).all()
    torch.testing.assert_close(
        q.log_prob(x[0]), dist.OneHotCategorical(probs=probs).expand((3, 2)).log_prob(x[0])
    )

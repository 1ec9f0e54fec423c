"""k-hat and effective sample size: against ArviZ datum by datum, on tails whose shape is known, and where
weights have no tail."""

import math

import arviz
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ppvae.errors import UsageError
from ppvae.evaluation.importance import log_weights
from ppvae.evaluation.means import evaluating
from ppvae.evaluation.psis import FEWEST, effective_sample_size, psis, tail_size
from tests.toys import GUIDE_A, GUIDE_B, gaussian_toy, ones


def generator(seed):
    return torch.Generator().manual_seed(seed)


def reference(log_weight):
    """ArviZ's, of one datum after another."""
    smoothed, k_hat = arviz.psislw(log_weight.double().numpy().T.copy(), normalize=False)
    return torch.tensor(smoothed).T, torch.tensor(np.asarray(k_hat))


SHAPES = {
    "normal": lambda z: z,
    "heavy": lambda z: 3 * z - 90,
    "one dominates": lambda z: 300 * z,
    "light": lambda z: -0.4 * z.square(),
    "uniform weights": lambda z: (0.5 + 0.5 * torch.erf(z)).log(),
    "float32": lambda z: (1.3 * z - 90).float(),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("k", [21, 25, 100, 1000, 4000])
def test_every_datum_is_as_arviz_has_it(name, k):
    """k-hat and smoothed log-weights to 1e-9, 30 data."""
    z = torch.randn(k, 30, dtype=torch.float64, generator=generator(k))
    log_weight = SHAPES[name](z)
    found, (smoothed, k_hat) = psis(log_weight), reference(log_weight)
    torch.testing.assert_close(found.k_hat, k_hat, rtol=1e-9, atol=1e-9)
    ours, theirs = found.log_weight, smoothed
    if name == "float32":  # which of two equal draws gets which quantile is open
        ours, theirs = ours.sort(0).values, theirs.sort(0).values
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert (found.log_weight != log_weight.double()).any()  # something was smoothed


def test_ties_are_as_arviz_has_them():
    """Weights of few values shorten the tail: k-hats to 1e-9 where ArviZ has a finite one, the same set of
    smoothed weights; `inf` where less than five lie above the rest, and -inf for us alone where none does."""
    finite = infinite = none = 0
    for values in (4, 12, 40):
        log_weight = torch.randint(values, (400, 40), generator=generator(values)).double().div(10)
        found, (smoothed, k_hat) = psis(log_weight), reference(log_weight)
        known = k_hat.isfinite()
        torch.testing.assert_close(found.k_hat[known], k_hat[known], rtol=1e-9, atol=1e-9)
        ours, theirs = (w[:, known].sort(0).values for w in (found.log_weight, smoothed))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        tail = log_weight.sort(0).values[-1 - tail_size(400)]
        above = (log_weight > tail).sum(0)
        assert torch.equal(found.k_hat == math.inf, (above > 0) & (above <= 4))
        assert torch.equal(found.k_hat == -math.inf, above == 0)
        finite, infinite = finite + int(known.sum()), infinite + int((found.k_hat == math.inf).sum())
        none += int((found.k_hat == -math.inf).sum())
    assert min(finite, none) > 0
    few = torch.zeros(400, 1, dtype=torch.float64)
    few[:3] = 2.0
    assert psis(few).k_hat.tolist() == [math.inf]


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_the_shape_of_a_pareto_tail_is_found(shape):
    """w = u^(-k), u uniform: 100 data of 20,000 draws (seed 0). The mean of their k-hats within 3 standard
    errors, and 0.01 for the fit's own bias, of k drawn towards the prior as ten of M draws would."""
    u = torch.rand(20_000, 100, dtype=torch.float64, generator=generator(0))
    k_hat = psis(-shape * u.log()).k_hat
    size = tail_size(20_000)
    wanted = (size * shape + 10 * 0.5) / (size + 10)
    assert float(k_hat.mean()) == pytest.approx(wanted, abs=3 * float(k_hat.std()) / 10 + 0.01)
    assert float(k_hat.std()) < 1.5 * (1 + shape) / math.sqrt(size)  # that of the best estimate, and a half


@pytest.mark.parametrize("variance", [0.2, 0.5, 0.8])
def test_k_hat_of_a_guide_that_is_too_narrow(variance):
    """p = N(0, 1) under q = N(0, s2): k = 1 - s2, within 0.15 at 20,000 draws (the mean of 50, seed 1)."""
    z = torch.randn(20_000, 50, dtype=torch.float64, generator=generator(1)) * math.sqrt(variance)
    log_weight = -z.square() / 2 + z.square() / (2 * variance)
    assert float(psis(log_weight).k_hat.mean()) == pytest.approx(1 - variance, abs=0.15)


def test_a_guide_that_is_too_wide_has_bounded_weights():
    """Under N(0, 4) the weights end at a maximum: k-hat is clearly negative."""
    z = 2 * torch.randn(20_000, 20, dtype=torch.float64, generator=generator(2))
    assert (psis(-3 * z.square() / 8).k_hat < 0).all()


# ---- where there is no tail


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_weights_are_exact(dtype):
    """-inf, also where they differ by rounding; their mean and effective sample size stay what they are."""
    noise = torch.randint(-4, 5, (500, 4), generator=generator(0)).to(dtype)
    log_weight = torch.tensor([-90.0, 0.0, 1e4, -1e-3], dtype=dtype).expand(500, 4)
    eps = torch.finfo(dtype).eps
    for case in (log_weight, log_weight + noise * eps * log_weight.abs().clamp(min=1.0)):
        found = psis(case.to(dtype))
        assert found.k_hat.tolist() == [-math.inf] * 4
        assert effective_sample_size(case).tolist() == pytest.approx([500.0] * 4, rel=1e-4)
    spread = log_weight + 1e4 * eps * log_weight.abs().clamp(min=1.0) * torch.randn(500, 4, dtype=dtype)
    assert psis(spread).k_hat.isfinite().all()


def test_weights_that_are_not_finite():
    """Draws of probability zero are weights of 0; NaN, +inf and nothing but zeros have no k-hat."""
    log_weight = torch.randn(200, 5, dtype=torch.float64, generator=generator(3))
    log_weight[50:100, 1] = -math.inf
    log_weight[7, 2] = math.nan
    log_weight[7, 3] = math.inf
    log_weight[:, 4] = -math.inf
    k_hat = psis(log_weight).k_hat
    assert k_hat.isnan().tolist() == [False, False, True, True, True]
    torch.testing.assert_close(k_hat[:2], reference(log_weight[:, :2])[1])
    ess = effective_sample_size(log_weight)
    assert ess.isnan().tolist() == [False, False, True, True, True]
    assert 1 < float(ess[1]) < 150


def test_what_smoothing_keeps():
    """The order of the draws, the body of the weights, and no weight above the largest raw one; k-hat does
    not change when all weights are multiplied, nor with the order of the draws."""
    log_weight = 2 * torch.randn(1000, 8, dtype=torch.float64, generator=generator(4))
    found = psis(log_weight)
    order = log_weight.argsort(0)
    steps = found.log_weight.gather(0, order).diff(dim=0)
    assert (steps >= 0).all()
    body = order[: -tail_size(1000)]
    assert torch.equal(found.log_weight.gather(0, body), log_weight.gather(0, body))
    assert (found.log_weight.max(0).values <= log_weight.max(0).values + 1e-12).all()
    shuffled = psis(log_weight[torch.randperm(1000, generator=generator(5))] - 300.0)
    torch.testing.assert_close(shuffled.k_hat, found.k_hat, rtol=0, atol=1e-9)


def test_one_by_one_is_all_at_once():
    """Data of unlike tails, ties and equal weights among them, to 1e-12."""
    log_weight = torch.randn(300, 6, dtype=torch.float64, generator=generator(6)) * torch.arange(6.0)
    log_weight[:, 2] = log_weight[:, 2].mul(2).round()
    whole = psis(log_weight)
    for b in range(6):
        one = psis(log_weight[:, b : b + 1])
        torch.testing.assert_close(one.k_hat, whole.k_hat[b : b + 1], rtol=0, atol=1e-12)
        torch.testing.assert_close(one.log_weight, whole.log_weight[:, b : b + 1], rtol=0, atol=1e-12)


def test_nothing_is_read_back_from_the_device():
    """Tensors without values would stop at the first number asked of them."""
    with FakeTensorMode():
        found = psis(torch.empty(400, 7))
        assert found.k_hat.shape == (7,)
        assert found.log_weight.shape == (400, 7)
        assert effective_sample_size(torch.empty(400, 7)).shape == (7,)


def test_too_few_draws_have_no_tail():
    assert tail_size(FEWEST) == 5
    assert tail_size(FEWEST - 1) == 4
    with pytest.raises(UsageError, match="k=20: a k-hat needs 21 draws or more"):
        psis(torch.randn(20, 3))


# ---- effective sample size


@pytest.mark.parametrize(("guide", "limit"), [(GUIDE_A, 0.733075), (GUIDE_B, 0.900644)])
def test_the_effective_sample_size_of_the_toys(guide, limit, float64):
    """ESS / K -> 1 / (1 + chi^2): 100 data of 20,000 draws, the mean within 3 standard errors (seed 0)."""
    built = gaussian_toy(*guide)
    with evaluating(built, 0):
        share = effective_sample_size(log_weights(built, ones(100), 20_000)) / 20_000
    assert float(share.mean()) == pytest.approx(limit, abs=3 * float(share.std()) / 10)
    assert float(share.std()) < 0.01


def test_the_effective_sample_size_is_the_formula():
    log_weight = torch.randn(50, 4, dtype=torch.float64, generator=generator(8))
    w = log_weight.exp()
    torch.testing.assert_close(effective_sample_size(log_weight - 700), w.sum(0) ** 2 / (w**2).sum(0))
    one = torch.full((50, 1), -math.inf)
    one[3] = 5.0
    assert effective_sample_size(one).item() == pytest.approx(1.0)

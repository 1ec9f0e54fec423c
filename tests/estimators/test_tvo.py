"""Thermodynamic integration: the toys' sums, their order draw by draw, and covariance gradients."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import math
from itertools import pairwise

import pytest
import torch
import torch.distributions as dist

from ppvae.build import build
from ppvae.estimators import ELBO, IWAE, TVO
from tests.estimators.quadrature import Exact, Grid, apart
from tests.toys import GUIDE_A, GUIDE_B, LOG_P, MLP_VAE, bernoulli_toy, bits, gaussian_toy, ones, z_score

pytestmark = pytest.mark.usefixtures("float64")


def truth(guide, points, side):
    """The Riemann sum of the Gaussian toy and its gradient in (loc, log_scale): integrals over a fine grid of
    z, differentiated there."""
    at = torch.tensor([guide[0], math.log(guide[1])], requires_grad=True)
    z = torch.linspace(-12, 12, 4_001)
    log_q = dist.Normal(at[0], at[1].exp()).log_prob(z)
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(torch.tensor(1.0))
    value = torch.zeros(())
    for left, right in pairwise(points):
        power = left if side == "lower" else right
        weight = ((1 - power) * log_q + power * log_p).softmax(0)
        value = value + (right - left) * (weight * (log_p - log_q)).sum()
    return value.item(), torch.autograd.grad(value, at)[0]


@pytest.mark.parametrize(
    ("guide", "intervals", "side", "number"),
    [
        (GUIDE_A, 4, "lower", -1.600072),
        (GUIDE_A, 4, "upper", -1.443822),
        (GUIDE_B, 4, "lower", -1.533771),
        (GUIDE_B, 4, "upper", -1.498283),
        (GUIDE_A, 2, "lower", -1.696716),
        (GUIDE_A, 2, "upper", -1.384216),
    ],
)
def test_many_draws_on_the_toys(guide, intervals, side, number):
    """K = 20,000, 100 data, seed 0: within 3 standard errors of the sum."""
    estimator = TVO(20_000, intervals=intervals, side=side)
    assert truth(guide, estimator.points, side)[0] == pytest.approx(number, abs=1e-6)
    torch.manual_seed(0)
    with torch.no_grad():
        bound = estimator.estimate(gaussian_toy(*guide), ones(100)).bound
    error = bound.std() / 10
    assert error < 1e-3
    assert abs(bound.mean() - number) < 3 * error


@pytest.mark.parametrize("spacing", ["even", "log"])
def test_sums_enclose_iwae_draw_by_draw(spacing):
    """Exact: ELBO <= lower <= iwae <= upper of the same draws; more intervals bring both closer; one is the
    ELBO."""
    built, batch, found = build(MLP_VAE), bits(), []

    def bound(estimator):
        torch.manual_seed(0)
        return estimator.estimate(built, batch).bound

    iwae, elbo = bound(IWAE(6)), bound(ELBO(6))
    torch.testing.assert_close(bound(TVO(6, intervals=1)), elbo)
    for intervals in (2, 5, 50):
        lower = bound(TVO(6, intervals=intervals, spacing=spacing))
        upper = bound(TVO(6, intervals=intervals, spacing=spacing, side="upper"))
        assert (elbo < lower).all()
        assert (lower < iwae).all()
        assert (iwae < upper).all()
        found.append((upper - lower).mean().item())
    assert found == sorted(found, reverse=True)
    assert TVO().claims.bound == "lower"
    assert TVO(side="upper").claims.bound is None


def test_the_upper_sum_of_few_draws_is_no_bound():
    """Without sampling, guide A, 4 intervals: the mean of the right sum is below log p at K = 2."""
    exact = Exact(Grid(60, 2), toy=GUIDE_A)
    assert exact.bound(TVO(2, side="upper")) < LOG_P - 0.01
    assert exact.bound(TVO(2)) < exact.bound(IWAE(2)) < LOG_P


@pytest.mark.parametrize("guide", [GUIDE_A, GUIDE_B], ids=["A", "B"])
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_the_guides_gradient_in_the_limit(guide, side):
    """K = 5,000, 300 data, seed 0: within 3 standard errors of the gradient over the grid, which is climbed
    for the left sum and descended for the right one."""
    built = gaussian_toy(*guide)
    for name, value in zip(("loc", "log_scale"), (guide[0], math.log(guide[1])), strict=True):
        setattr(built.guide, name, torch.nn.Parameter(torch.full((300,), value)))
    estimator = TVO(5_000, side=side)
    wanted = truth(guide, estimator.points, side)[1] * (1 if side == "lower" else -1)
    torch.manual_seed(0)
    estimator(built)(ones(300)).backward()
    for name, number in zip(("loc", "log_scale"), wanted, strict=True):
        draws = -300 * getattr(built.guide, name).grad
        assert draws.std() / math.sqrt(300) < 0.03 * number.abs()
        assert z_score(draws, number).abs() < 3


@pytest.mark.parametrize("particles", [1, 2, 3])
def test_one_interval_is_the_elbo_without_bias(particles):
    """Without sampling, to 1e-9 (1e-5 on the coarser grid of K = 3): covariances of the score and log w give
    the ELBO's gradient; K = 1 too, there with any partition."""
    exact = Exact(Grid({1: 60, 2: 60, 3: 24}[particles], particles))
    wanted = exact.climbed(ELBO(particles))
    for intervals in (1, 3) if particles == 1 else (1,):
        estimator = TVO(particles, intervals=intervals)
        assert estimator.claims.biased == ()
        difference = apart(exact.climbed(estimator), wanted)
        assert difference < (1e-5 if particles == 3 else 1e-9)


def test_the_bias_shrinks_with_k():
    """Without sampling, 4 intervals: relative to the gradient of the mean of the estimate, the guide's is off
    by more than 5 % at K = 2 and by less at K = 3 and 4."""
    biases = []
    for particles, nodes in ((2, 40), (3, 24), (4, 16)):
        exact, estimator = Exact(Grid(nodes, particles)), TVO(particles)
        wanted = exact.truth(estimator.targets()["guide"])
        scale = max(float(g.abs()) for n, g in wanted.items() if n.startswith("guide"))
        biases.append(apart(exact.climbed(estimator), wanted, "guide") / scale)
    assert biases[0] > 0.05
    assert biases == sorted(biases, reverse=True)


def test_discrete_latents():
    """The Bernoulli toy, one interval, K = 2, 100,000 data, seed 0: within 3 standard errors of .0603155."""
    built = bernoulli_toy()
    built.guide.logit = torch.nn.Parameter(torch.logit(torch.full((100_000,), 0.6)))
    torch.manual_seed(0)
    TVO(2, intervals=1)(built)(ones(100_000)).backward()
    assert z_score(-100_000 * built.guide.logit.grad, 0.0603155).abs() < 3


def test_partitions():
    assert TVO(intervals=4).points == [0, 0.25, 0.5, 0.75, 1]
    assert TVO(intervals=1, spacing="log").points == [0, 1]
    assert TVO(intervals=3, spacing="log", first=0.01).points == pytest.approx([0, 0.01, 0.1, 1])

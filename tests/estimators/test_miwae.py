"""Means of importance-weighted bounds: the ends M = 1 and K = 1, and what lies between."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import math

import pytest
import torch

from ppvae.build import build
from ppvae.estimators import ELBO, IWAE, MIWAE
from tests.estimators.quadrature import Exact, Grid, apart
from tests.toys import GUIDE_A, IWAE_A, MLP_VAE, assert_same, bits, gaussian_toy, loss_and_gradients, ones

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("miwae", "other"),
    [
        (MIWAE(4, groups=1), IWAE(4)),
        (MIWAE(1, groups=4), ELBO(4)),
        (MIWAE(4, groups=1, beta=0.3), IWAE(4, beta=0.3)),
    ],
    ids=["M1", "K1", "beta"],
)
def test_its_ends(miwae, other):
    """Exact to 1e-9 under one seed: M = 1 is iwae of K draws, K = 1 the ELBO of M draws; value, bound and
    gradients."""
    built, batch = build(MLP_VAE), bits()
    wanted, theirs = loss_and_gradients(other, built, batch)
    found, ours = loss_and_gradients(miwae, built, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert_same(ours, theirs)
    torch.manual_seed(0)
    bound = miwae.estimate(built, batch).bound
    torch.manual_seed(0)
    torch.testing.assert_close(bound, other.estimate(built, batch).bound, rtol=1e-9, atol=1e-9)


def test_mean_value_and_gradient_are_those_of_iwae_with_k_draws():
    """To 1e-9 on the grid, M = 2, K = 2: groups change the variance alone."""
    four, two = Exact(Grid(20, 4)), Exact(Grid(20, 2))
    assert float(four.bound(MIWAE(2, groups=2)) - two.bound(IWAE(2))) == pytest.approx(0, abs=1e-9)
    assert apart(four.climbed(MIWAE(2, groups=2)), two.climbed(IWAE(2))) < 1e-9


def test_groups_are_averaged():
    """Guide A, K = 5, M = 8, 25,000 data, seed 0: mean within 3 standard errors of L_5, variance an eighth of
    iwae's within 5 %."""
    built = gaussian_toy(*GUIDE_A)
    torch.manual_seed(0)
    with torch.no_grad():
        bound = MIWAE(5, groups=8).estimate(built, ones(25_000)).bound
        single = IWAE(5).estimate(built, ones(25_000)).bound
    assert abs(bound.mean() - IWAE_A[5]) < 3 * bound.std() / math.sqrt(25_000)
    assert 8 * bound.var() / single.var() == pytest.approx(1, rel=0.05)

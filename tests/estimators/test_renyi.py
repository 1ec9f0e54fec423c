"""The Renyi bound: its ends, Pyro's, the toys, and on which side of the evidence it lies for finite K."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import math
from itertools import pairwise

import pytest
import torch
from pyro.infer import RenyiELBO

from ppvae.build import build
from ppvae.estimators import ELBO, IWAE, Renyi
from tests.estimators.quadrature import Exact, Grid
from tests.toys import (
    GUIDE_A,
    GUIDE_B,
    LOG_P,
    MLP_VAE,
    assert_same,
    bits,
    gaussian_toy,
    loss_and_gradients,
    ones,
    pyro_loss_and_gradients,
)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("alpha", "other"), [(0, IWAE(4)), (1, ELBO(4)), (1.0, ELBO(4))])
def test_its_ends(alpha, other):
    """Exact to 1e-9 under one seed: alpha = 0 is iwae, alpha = 1 the ELBO, value and gradients."""
    built, batch = build(MLP_VAE), bits()
    wanted, theirs = loss_and_gradients(other, built, batch)
    found, ours = loss_and_gradients(Renyi(4, alpha=alpha), built, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert_same(ours, theirs)


def test_the_limit_is_reached():
    """alpha = 1 within 1e-4 of alpha = .99999 and 1.00001: value and gradients."""
    built, batch = build(MLP_VAE), bits()
    wanted, theirs = loss_and_gradients(Renyi(4, alpha=1), built, batch)
    for alpha in (0.99999, 1.00001):
        found, ours = loss_and_gradients(Renyi(4, alpha=alpha), built, batch)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert_same(ours, theirs, tolerance=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 2.0, -1.0])
def test_equals_pyro(alpha):
    """Exact to 1e-9 under one seed: RenyiELBO under plate("data", B) is ours times B."""
    built, batch = build(MLP_VAE), bits(7)
    theirs = RenyiELBO(alpha=alpha, num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    value, wanted = pyro_loss_and_gradients(theirs, built, batch)
    loss, found = loss_and_gradients(Renyi(4, alpha=alpha), built, batch)
    assert float(loss) * 7 == pytest.approx(value, rel=1e-9)
    assert_same(found, wanted, 7)


def test_two_draws_on_the_toy():
    """To 1e-6 without sampling: guide A, K = 2, alpha = .5 has the mean -1.755357."""
    assert float(Exact(Grid(60, 2), toy=GUIDE_A).bound(Renyi(2, alpha=0.5))) == pytest.approx(
        -1.755357, abs=1e-6
    )


@pytest.mark.parametrize(
    ("guide", "alpha", "truth"),
    [
        (GUIDE_A, 0.5, -1.657737),
        (GUIDE_A, -1, -1.360258),
        (GUIDE_B, 0.5, -1.550523),
        (GUIDE_B, 2, -1.729945),
        (GUIDE_B, -1, -1.463189),
    ],
)
def test_many_draws_on_the_toys(guide, alpha, truth):
    """K = 100,000, 20 data, seed 0: within 3 standard errors of L_alpha (the bias is 100 times smaller)."""
    torch.manual_seed(0)
    with torch.no_grad():
        bound = Renyi(100_000, alpha=alpha).estimate(gaussian_toy(*guide), ones(20)).bound
    error = bound.std() / math.sqrt(20)
    assert error < 2e-3
    assert abs(bound.mean() - truth) < 3 * error


def test_sides_of_the_evidence_for_finite_k():
    """Without sampling, guide A, K = 1, 2, 3: from the ELBO at K = 1 the mean rises for alpha = .5 and -1 and
    falls for 2. alpha = -1 is below log p at K = 2 and above it at K = 3: no bound, and none is claimed."""
    grids = [Exact(Grid(nodes, k), toy=GUIDE_A) for k, nodes in ((1, 60), (2, 60), (3, 30))]
    means = {}
    for alpha in (0.5, 2, -1):
        means[alpha] = [float(grid.bound(Renyi(k, alpha=alpha))) for k, grid in enumerate(grids, start=1)]
        assert means[alpha][0] == pytest.approx(-1.918939, abs=1e-6)
    assert means[0.5] == sorted(means[0.5])
    assert means[2] == sorted(means[2], reverse=True)
    assert max(means[0.5] + means[2]) < LOG_P
    assert means[-1][1] < LOG_P - 0.02
    assert means[-1][2] > LOG_P + 0.02
    assert [Renyi(alpha=a).claims.bound for a in (0, 0.5, 1, 2, -0.1)] == ["lower"] * 4 + [None]


def test_it_is_never_below_iwae_for_negative_orders():
    """Draw by draw: a power mean of higher exponent is larger."""
    built, batch = build(MLP_VAE), bits()
    bounds = []
    for alpha in (2, 1, 0.5, 0, -1, -5):
        torch.manual_seed(0)
        bounds.append(Renyi(6, alpha=alpha).estimate(built, batch).bound)
    for lower, upper in pairwise(bounds):
        assert (upper > lower).all()

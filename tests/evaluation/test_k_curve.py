"""The K curve: unbiased for each bound, in order, and every draw used once."""

import math

import pytest
import torch

from ppvae.evaluation.importance import log_weights
from ppvae.evaluation.k_curve import block_bound, ladder
from ppvae.evaluation.means import evaluating
from tests.toys import GUIDE_A, GUIDE_B, IWAE_A, IWAE_B, gaussian_toy, ones, z_score


def test_the_ladder():
    assert ladder(1) == [1]
    assert ladder(3) == [1, 2, 3]
    assert ladder(50) == [1, 2, 5, 10, 20, 50]
    assert ladder(1200) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1200]


@pytest.mark.parametrize(("guide", "bounds"), [(GUIDE_A, IWAE_A), (GUIDE_B, IWAE_B)])
def test_each_bound_is_unbiased(guide, bounds, float64):
    """Against quadrature, 2,000 data of 120 draws, of which 20 are left over for K = 50 (seed 0, |z| < 3)."""
    built = gaussian_toy(*guide)
    with evaluating(built, 0):
        weights = log_weights(built, ones(2000), 120)
    for k, wanted in bounds.items():
        assert abs(float(z_score(block_bound(weights, k), wanted))) < 3, k


def test_blocks_are_disjoint_and_whole():
    """Against a loop; what does not fill a block is left out."""
    weights = torch.randn(23, 3, dtype=torch.float64)
    for k in (1, 2, 5, 7, 23):
        blocks = [weights[i : i + k] for i in range(0, 23 - k + 1, k)]
        wanted = torch.stack([b.exp().mean(0).log() for b in blocks]).mean(0)
        torch.testing.assert_close(block_bound(weights, k), wanted, rtol=0, atol=1e-12)
    assert torch.equal(block_bound(weights, 5), block_bound(weights[:20], 5))


def test_a_curve_never_falls_where_blocks_are_nested():
    """Jensen's inequality, datum by datum, for weights of any tail."""
    weights = 5 * torch.randn(1000, 50, dtype=torch.float64)
    for chain in ([1, 2, 10, 20, 100, 200, 1000], [1, 5, 50, 500, 1000]):
        curve = torch.stack([block_bound(weights, k) for k in chain])
        assert (curve.diff(dim=0) > 0).all()
    torch.testing.assert_close(curve[-1], weights.logsumexp(0) - math.log(1000))

"""DisARM's own laws on one bit; all else it shares with ARM (test_antithetic)."""
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportAttributeAccessIssue=false

import pytest
import torch

from ppvae.build import build
from ppvae.estimators import ARM, DisARM
from ppvae.pair import Pair
from tests.estimators.test_antithetic import CODE, ThreeBitGuide, ThreeBits, midpoints, uniforms
from tests.estimators.test_arm import one_bit_slopes

pytestmark = pytest.mark.usefixtures("float64")


def test_one_bit(monkeypatch):
    """By the integral over u, a grid of 10,000 cells: mean .0603155 and variance .000909, to 1e-6."""
    slopes = one_bit_slopes(DisARM(), monkeypatch, 10_000)
    assert slopes.mean().item() == pytest.approx(0.0603155, abs=1e-6)
    assert slopes.var(unbiased=False).item() == pytest.approx(0.000909, abs=1e-6)


def three_bit_slopes(estimator, monkeypatch) -> tuple[torch.Tensor, torch.Tensor]:
    """(single-pair estimates of d ELBO / d logits, the pair's six bits) at 8,000 cells of a grid of u."""
    grid = torch.stack(torch.meshgrid(*[midpoints(20)] * 3, indexing="ij"), -1).reshape(-1, 3)
    built, batch = (
        build(Pair(model=ThreeBits, guide=ThreeBitGuide, data=None)),
        {"x": torch.full((8000,), 0.7)},
    )
    built.guide.logits = torch.nn.Parameter(torch.logit(torch.tensor(CODE)).repeat(8000, 1))
    estimator.estimate(built, batch)
    uniforms(monkeypatch, grid)
    objective, terms = estimator.scored(built, batch, {})
    slopes = -torch.autograd.grad(objective.losses["all"], built.guide.logits)[0] * 8000
    return slopes, torch.cat(list(terms.sites["b"].value), -1)


def test_three_bits_are_arm_averaged_over_what_the_pair_does_not_tell(monkeypatch):
    """Exact to 1e-9: the mean of ARM's slopes over all u that give one pair (b, b~) is DisARM's, which has
    none for a bit that agrees in both. Hence the smaller variance."""
    arm, pairs = three_bit_slopes(ARM(), monkeypatch)
    monkeypatch.undo()
    disarm, _ = three_bit_slopes(DisARM(), monkeypatch)
    _, which = pairs.unique(dim=0, return_inverse=True)
    for pair in range(int(which.max()) + 1):
        assert disarm[which == pair].std(0).max() < 1e-12
        torch.testing.assert_close(arm[which == pair].mean(0), disarm[which == pair][0], rtol=1e-9, atol=1e-9)
    assert (disarm[pairs[:, :3] == pairs[:, 3:]] == 0).all()
    assert (disarm.var(0) < arm.var(0)).all()


def test_is_arm_averaged_over_what_the_bits_do_not_tell(monkeypatch):
    """Exact to 1e-6 on 10,000 cells: given (b, b~), that is on each side of .4 and .6, the mean of ARM's
    slopes is DisARM's."""
    arm = one_bit_slopes(ARM(), monkeypatch, 10_000)
    monkeypatch.undo()
    disarm = one_bit_slopes(DisARM(), monkeypatch, 10_000)
    u = midpoints(10_000)
    for cell in (u < 0.4, (u > 0.4) & (u < 0.6), u > 0.6):
        assert disarm[cell].std() < 1e-12
        assert arm[cell].mean().item() == pytest.approx(disarm[cell].mean().item(), abs=1e-9)

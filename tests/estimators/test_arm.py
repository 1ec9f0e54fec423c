"""ARM's own law on one bit; all else it shares with DisARM (test_antithetic)."""
# pyright: reportOptionalMemberAccess=false

import pytest
import torch

from ppvae.estimators import ARM
from tests.estimators.test_antithetic import midpoints, uniforms
from tests.toys import bernoulli_toy, ones

pytestmark = pytest.mark.usefixtures("float64")


def one_bit_slopes(estimator, monkeypatch, cells: int) -> torch.Tensor:
    """The single-pair estimates of d ELBO / d logit at every cell of a grid of u."""
    built = bernoulli_toy()
    built.guide.logit = torch.nn.Parameter(torch.logit(torch.full((cells,), 0.6)))
    estimator.estimate(built, ones(cells))
    uniforms(monkeypatch, midpoints(cells))
    loss = estimator.estimate(built, ones(cells)).losses["all"]
    return -torch.autograd.grad(loss, built.guide.logit)[0] * cells


def test_one_bit(monkeypatch):
    """By the integral over u, a grid of 10,000 cells: mean .0603155 and variance .001583, to 1e-6."""
    slopes = one_bit_slopes(ARM(), monkeypatch, 10_000)
    assert slopes.mean().item() == pytest.approx(0.0603155, abs=1e-6)
    assert slopes.var(unbiased=False).item() == pytest.approx(0.001583, abs=1e-6)

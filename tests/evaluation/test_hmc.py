"""Hamiltonian Monte Carlo: what is exact of it to rounding, and what it must leave as it was in
distribution."""

import math

import pytest
import torch
from torch import Tensor

from ppvae.evaluation import hmc
from ppvae.evaluation.hmc import Point, integrate, transition

pytestmark = pytest.mark.usefixtures("float64")

PRECISIONS = torch.tensor(
    [
        [[2.0, 0.8, 0.0], [0.8, 1.0, 0.3], [0.0, 0.3, 0.5]],
        [[1.0, -0.4, 0.2], [-0.4, 3.0, 0.0], [0.2, 0.0, 1.0]],
    ],
    dtype=torch.float64,
)
MEANS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)


def of(*log_densities):
    """`Evaluate` of log-densities (K, B, D) -> (K, B)."""

    def evaluate(u: Tensor) -> Point:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            values = [f(u) for f in log_densities]
            gradients = [torch.autograd.grad(v.sum(), u, retain_graph=True)[0] for v in values]
        return Point(u.detach(), torch.stack(values).detach(), torch.stack(gradients))

    return evaluate


def gaussian(u: Tensor) -> Tensor:
    """Another one for each of two data."""
    centred = u - MEANS
    return -0.5 * torch.einsum("kbi,bij,kbj->kb", centred, PRECISIONS, centred)


def quartic(u: Tensor) -> Tensor:
    return -(0.1 * u**4 + 0.3 * u**3 - u**2 + 0.2 * u * u.roll(1, -1)).sum(-1)


def exact_draws(chains: int) -> Tensor:
    return torch.distributions.MultivariateNormal(MEANS, precision_matrix=PRECISIONS).sample((chains,))


def z_scores(values: Tensor, truth: Tensor) -> Tensor:
    return (values.mean(0) - truth) / (values.std(0) / math.sqrt(len(values)))


def test_leaves_a_gaussian_as_it_is():
    """Means and second moments after 5 moves from exact draws, 40,000 chains, seed 0: of 18 z-scores none
    above 3.3. The steps are so long that 3 in 10 proposals are refused."""
    evaluate = of(gaussian)
    point = evaluate(exact_draws(40_000))
    step = torch.tensor([1.0, 0.8])
    for _ in range(5):
        point, acceptance = transition(point, evaluate, (1.0,), step, 1.0, 3)
        assert (acceptance.mean(0) < 0.85).all()
        assert (acceptance.mean(0) > 0.4).all()
    centred = point.position - MEANS
    assert z_scores(centred, torch.zeros(2, 3)).abs().max() < 3.3
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    assert z_scores(products, torch.linalg.inv(PRECISIONS)).abs().max() < 3.3


def test_goes_to_the_gaussian_from_elsewhere():
    """100 moves from a point 5 away, 4,000 chains, seed 0."""
    evaluate = of(gaussian)
    point = evaluate(MEANS.expand(4000, 2, 3) + 5.0)
    for _ in range(100):
        point, _ = transition(point, evaluate, (1.0,), torch.tensor(0.6), 1.0, 3)
    assert z_scores(point.position, MEANS).abs().max() < 3.3


def test_flows_between_two_regions_balance():
    """P(u in A, u' in A') = P(u in A', u' in A) for a skewed mixture started at exact draws; 200,000 chains,
    seed 0, z = (n - n') / sqrt(n + n')."""
    weights, locs = torch.tensor([0.7, 0.3]), torch.tensor([0.0, 2.5])

    def mixture(u):
        return (weights.log() - 0.5 * (u - locs) ** 2).logsumexp(-1)

    evaluate = of(mixture)
    n = 200_000
    u = (locs[torch.multinomial(weights, n, replacement=True)] + torch.randn(n)).reshape(n, 1, 1)
    after, _ = transition(evaluate(u), evaluate, (1.0,), torch.tensor(1.4), 1.0, 2)
    there, back = (u < 0.5) & (after.position >= 0.5), (u >= 0.5) & (after.position < 0.5)
    thither, hither = there.sum(), back.sum()
    assert thither > 10_000
    assert (thither - hither).abs() / (thither + hither).sqrt() < 3
    low, high = (u < -1) & (after.position > 1), (u > 1) & (after.position < -1)
    assert (low.sum() - high.sum()).abs() / (low.sum() + high.sum()).sqrt() < 3


def test_turned_around_it_comes_back():
    """To 1e-10, along a density that is not Gaussian."""
    evaluate = of(quartic)
    u, r = torch.randn(7, 2, 3), torch.randn(7, 2, 3)
    push = torch.full((7, 2, 3), 0.1)
    there, momentum = integrate(evaluate(u), evaluate, (1.0,), push, r, 9)
    assert (there.position - u).abs().max() > 0.5
    back, turned = integrate(there, evaluate, (1.0,), push, -momentum, 9)
    torch.testing.assert_close(back.position, u, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned, -r, rtol=0, atol=1e-10)


def test_volume_is_kept():
    """The determinant of d(u', r') / d(u, r) is one, by central differences of 1e-5, to 1e-7."""
    evaluate = of(quartic)
    push = torch.tensor([0.2, 0.3]).expand(8, 1, 2)
    here = torch.randn(4)
    moved = here + 1e-5 * torch.cat([torch.eye(4), -torch.eye(4)])  # (8, 4): u and r side by side
    point, momentum = integrate(evaluate(moved[:, None, :2]), evaluate, (1.0,), push, moved[:, None, 2:], 4)
    ends = torch.cat([point.position, momentum], -1).squeeze(1)
    jacobian = (ends[:4] - ends[4:]) / 2e-5
    assert (jacobian - torch.eye(4)).abs().max() > 0.1
    assert jacobian.det() == pytest.approx(1.0, abs=1e-7)


def test_energy_is_kept_to_second_order():
    """Over a time of 0.8: the error falls with the square of the step, slope 2 within 0.06."""
    evaluate = of(quartic)
    u, r = torch.randn(50, 1, 3), torch.randn(50, 1, 3)
    start = evaluate(u)
    before = 0.5 * r.square().sum(-1) - start.log_density((1.0,))
    errors = []
    for steps in (16, 32, 64):
        push = torch.full((50, 1, 3), 0.8 / steps)
        end, momentum = integrate(start, evaluate, (1.0,), push, r, steps)
        after = 0.5 * momentum.square().sum(-1) - end.log_density((1.0,))
        errors.append((after - before).abs().mean().log2())
    assert errors[0] - errors[1] == pytest.approx(2.0, abs=0.06)
    assert errors[1] - errors[2] == pytest.approx(2.0, abs=0.06)


def test_one_step_is_leapfrog_by_hand():
    """In one dimension, log f = -u^2 / 2 with a width of 2, to 1e-12."""
    evaluate = of(lambda u: -0.5 * u.square().sum(-1))
    u, r, e = 0.3, -1.1, 0.25 * 2
    half = r - e / 2 * u
    there = u + e * half
    point, momentum = integrate(
        evaluate(torch.full((1, 1, 1), u)),
        evaluate,
        (1.0,),
        torch.full((1, 1, 1), e),
        torch.full((1, 1, 1), r),
        1,
    )
    assert float(point.position) == pytest.approx(there, abs=1e-12)
    assert float(momentum) == pytest.approx(half - e / 2 * there, abs=1e-12)


def test_each_chain_and_datum_decides_for_itself():
    """Tiny steps are accepted for the first datum, giant ones refused for the second."""
    evaluate = of(gaussian)
    start = evaluate(exact_draws(50))
    step = torch.tensor([1e-3, 1e3])
    end, acceptance = transition(start, evaluate, (1.0,), step, 1.0, 2)
    moved = (end.position != start.position).any(-1)
    assert moved[:, 0].all()
    assert not moved[:, 1].any()
    assert (acceptance[:, 0] > 0.99).all()
    assert (acceptance[:, 1] < 1e-3).all()
    # What is known of a point goes with it.
    again = evaluate(end.position)
    torch.testing.assert_close(end.log_densities, again.log_densities, rtol=0, atol=1e-12)
    torch.testing.assert_close(end.gradients, again.gradients, rtol=0, atol=1e-12)


def test_the_width_scales_the_steps():
    """A density k times as wide, with a width of k: the same walk, k times as wide."""
    wide = torch.tensor([1.0, 10.0, 0.1])
    plain, stretched = of(quartic), of(lambda u: quartic(u / wide))
    u = torch.randn(20, 2, 3)
    torch.manual_seed(5)
    one, _ = transition(plain(u), plain, (1.0,), torch.tensor(0.2), 1.0, 3)
    torch.manual_seed(5)
    other, _ = transition(stretched(u * wide), stretched, (1.0,), torch.tensor(0.2), wide, 3)
    torch.testing.assert_close(other.position, one.position * wide, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_proposal_without_energy_is_refused(bad):
    def walled(u):
        return torch.where(u[..., 0] > 0, bad, gaussian(u))

    evaluate = of(walled)
    u = torch.full((200, 2, 3), -1e-3)
    end, acceptance = transition(evaluate(u), evaluate, (1.0,), torch.tensor(0.5), 1.0, 1)
    assert (end.position[..., 0] <= 0).all()
    assert torch.isfinite(end.log_densities).all()
    assert torch.isfinite(acceptance).all()
    assert (acceptance == 0).any()


def test_the_target_is_the_mixture_of_log_densities():
    """Two Gaussians to the powers 0.3 and 0.7 are a third one; 40,000 chains from exact draws of it, seed
    0."""
    evaluate = of(lambda u: -0.5 * u.square().sum(-1), lambda u: -2.0 * (u - 1).square().sum(-1))
    precision = 0.3 * 1 + 0.7 * 4
    mean = 0.7 * 4 / precision
    u = mean + torch.randn(40_000, 1, 1) / math.sqrt(precision)
    point = evaluate(u)
    for _ in range(5):
        point, _ = transition(point, evaluate, (0.3, 0.7), torch.tensor(0.9), 1.0, 2)
    centred = point.position - mean
    assert z_scores(centred, torch.zeros(1, 1)).abs().max() < 3
    assert z_scores(centred**2, torch.full((1, 1), 1 / precision)).abs().max() < 3


def test_a_coefficient_of_zero_silences_an_infinite_density():
    point = Point(torch.zeros(1, 1, 2), torch.tensor([[[-math.inf]], [[3.0]]]), torch.ones(2, 1, 1, 2))
    assert point.log_density((0.0, 1.0)) == torch.tensor([[3.0]])
    assert point.log_density((0.0, 0.0)) == torch.tensor([[0.0]])
    torch.testing.assert_close(point.gradient((2.0, -0.5)), torch.full((1, 1, 2), 1.5))


def test_steps_differ_from_chain_to_chain(monkeypatch):
    """By up to a fifth: one length for all would walk a Gaussian around in its period."""
    evaluate = of(lambda u: -0.5 * u.square().sum(-1))
    seen = []

    def watched(point, evaluate, coefficients, push, momentum, leapfrog):
        seen.append(push)
        return integrate(point, evaluate, coefficients, push, momentum, leapfrog)

    monkeypatch.setattr(hmc, "integrate", watched)
    transition(evaluate(torch.zeros(1000, 1, 1)), evaluate, (1.0,), torch.tensor(0.5), 1.0, 1)
    assert seen[0].min() == pytest.approx(0.4, abs=0.01)
    assert seen[0].max() == pytest.approx(0.6, abs=0.01)

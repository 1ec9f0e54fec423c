"""The chi upper bound: its value in the limit, a guide's gradient of the right direction, a model's of
another target."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import math

import pytest
import torch

from ppvae.build import build
from ppvae.estimators import CUBO, IWAE, IWAESTL, STL
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
    z_score,
)

pytestmark = pytest.mark.usefixtures("float64")


def chi_square(loc, log_scale):
    """1 + chi^2(p(z | x), q) for the posterior N(.5, .5) and the guide N(loc, scale^2)."""
    variance = (2 * log_scale).exp()
    return variance / (0.5 * (2 * variance - 0.5)).sqrt() * ((loc - 0.5) ** 2 / (2 * variance - 0.5)).exp()


def truth(guide):
    """CUBO_2 of the toy and its gradient in (loc, log_scale)."""
    at = torch.tensor([guide[0], math.log(guide[1])], requires_grad=True)
    value = LOG_P + 0.5 * chi_square(*at).log()
    return value.item(), torch.autograd.grad(value, at)[0]


@pytest.mark.parametrize(("guide", "one_plus"), [(GUIDE_A, 1.364118), (GUIDE_B, 1.110317)], ids=["A", "B"])
def test_many_draws_on_the_toys(guide, one_plus):
    """K = 100,000, 20 data, seed 0: within 3 standard errors of log p + 1/2 log (1 + chi^2)."""
    value, _ = truth(guide)
    assert math.exp(2 * (value - LOG_P)) == pytest.approx(one_plus, abs=2e-6)
    torch.manual_seed(0)
    with torch.no_grad():
        bound = CUBO(100_000).estimate(gaussian_toy(*guide), ones(20)).bound
    error = bound.std() / math.sqrt(20)
    assert error < 1e-3
    assert abs(bound.mean() - value) < 3 * error


def test_finitely_many_draws_are_no_bound():
    """Without sampling, guide A: the mean is below log p at K = 1 and 2, above it at K = 3; it rises with K
    and is never below that of iwae. No bound is claimed."""
    found = []
    for particles, nodes in ((1, 60), (2, 60), (3, 30)):
        exact = Exact(Grid(nodes, particles), toy=GUIDE_A)
        found.append(float(exact.bound(CUBO(particles))))
        assert found[-1] > exact.bound(IWAE(particles)) - 1e-12
    assert found == sorted(found)
    assert found[1] < LOG_P < found[2]
    assert CUBO().claims.bound is None


@pytest.mark.parametrize("guide", [GUIDE_A, GUIDE_B], ids=["A", "B"])
def test_the_guides_gradient_in_the_limit(guide):
    """K = 20,000, 100 data, seed 0: within 3 standard errors of the closed form in loc and log_scale."""
    built = gaussian_toy(*guide)
    for name, value in zip(("loc", "log_scale"), (guide[0], math.log(guide[1])), strict=True):
        setattr(built.guide, name, torch.nn.Parameter(torch.full((100,), value)))
    torch.manual_seed(0)
    CUBO(20_000)(built)(ones(100)).backward()
    for name, wanted in zip(("loc", "log_scale"), truth(guide)[1], strict=True):
        draws = 100 * getattr(built.guide, name).grad
        assert draws.std() / 10 < 0.01
        assert z_score(draws, wanted).abs() < 3


@pytest.mark.parametrize("particles", [2, 3])
def test_against_others_has_the_direction_of_the_truth(particles):
    """Without sampling, guide (.3, .9): the mean gradient is the closed form times a positive number, to
    1e-5 of its size; against all it is not."""
    guide, nodes = (0.3, 0.9), {2: 60, 3: 34}[particles]
    exact = Exact(Grid(nodes, particles), toy=guide)
    wanted = -truth(guide)[1]

    def turned(against):
        found = exact.climbed(CUBO(particles, against=against))
        found = torch.stack([found["guide.loc"], found["guide.log_scale"]])
        cross = found[0] * wanted[1] - found[1] * wanted[0]
        return found @ wanted, (cross / (found.norm() * wanted.norm())).abs()

    along, across = turned("others")
    assert along > 0
    assert across < 1e-5
    assert turned("all")[1] > 1e-3


def test_one_draw_is_stl_and_the_model_climbs_iwae():
    """Exact to 1e-9 under one seed: at K = 1, order 2, the guide's gradient is that of stl; order 3 doubles
    it. For any K the model's is that of iwae."""
    built, batch = build(MLP_VAE), bits()
    for order in (2, 3):
        _, found = loss_and_gradients(CUBO(1, order=order), built, batch)
        _, stl = loss_and_gradients(STL(1), built, batch)
        guide = [name for name in found if name.startswith("guide")]
        assert_same({n: found[n] / (order - 1) for n in guide}, {n: stl[n] for n in guide})
        for against in ("all", "others"):
            _, found = loss_and_gradients(CUBO(4, order=order, against=against), built, batch)
            _, iwae = loss_and_gradients(IWAE(4), built, batch)
            assert_same(
                {n: g for n, g in found.items() if n not in guide},
                {n: g for n, g in iwae.items() if n not in guide},
            )
    # Weights of order 2 are not those of order 1.
    _, stl = loss_and_gradients(IWAESTL(4), built, batch)
    _, found = loss_and_gradients(CUBO(4), built, batch)
    assert max((stl[n] - found[n]).abs().max() for n in guide) > 1e-3


def test_no_variance_at_the_posterior():
    """Exact to 1e-9: every single estimate of the guide's gradient is zero, the bound log p."""
    exact = Exact(Grid(7, 3), toy=(0.5, math.sqrt(0.5)))
    for against in ("all", "others"):
        estimator = CUBO(3, against=against)
        assert max(g.abs().max() for g in exact.each(estimator).values()) < 1e-9
        assert float(exact.bound(estimator)) == pytest.approx(LOG_P, abs=1e-6)


def test_one_weight_above_all_others_stays_finite():
    """Sums that leave the own weight out do not subtract it: no overflow to nan where one draw outweighs the
    rest by e^80 in single precision."""
    from ppvae.estimators.cubo import relative_to_others

    log_weight = torch.tensor([[0.0], [-40.0], [-41.0]], dtype=torch.float32)
    found = relative_to_others(2 * log_weight)
    assert found[0, 0].item() == pytest.approx(2 / 3 / (math.exp(-80) + math.exp(-82)), rel=1e-5)
    assert torch.isfinite(found).all()

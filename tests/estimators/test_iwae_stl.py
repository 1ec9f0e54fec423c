"""The weighted path derivative: right in value and for the model, biased for the guide, seen to be so."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import pytest
import torch

from ppvae.build import build
from ppvae.estimators import IWAE, IWAESTL, STL
from tests.estimators.quadrature import Exact, Grid, apart
from tests.toys import GUIDE_A, MLP_VAE, assert_same, bits, gaussian_toy, loss_and_gradients, ones, z_score

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("particles", [1, 4])
def test_value_and_the_models_gradient_are_those_of_iwae(particles):
    """Exact to 1e-9 under one seed."""
    built, batch = build(MLP_VAE), bits()
    wanted, theirs = loss_and_gradients(IWAE(particles), built, batch)
    found, ours = loss_and_gradients(IWAESTL(particles), built, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    model = [name for name in ours if name.startswith("model")]
    assert_same({n: ours[n] for n in model}, {n: theirs[n] for n in model})


def test_one_draw_is_stl():
    """Exact to 1e-9."""
    built, batch = build(MLP_VAE), bits()
    assert_same(loss_and_gradients(IWAESTL(1), built, batch)[1], loss_and_gradients(STL(1), built, batch)[1])


def test_the_bias_is_seen():
    """Without error: at K = 1 none (1e-9), at K = 2 more than half of the true gradient, K = 3 more. Guide A,
    K = 10, 20,000 draws, seed 0: above 100 standard errors."""
    relative = []
    for particles in (1, 2, 3):
        exact = Exact(Grid(40, particles))
        truth = exact.climbed(IWAE(particles))
        largest = max(float(truth[name].abs()) for name in truth if name.startswith("guide"))
        relative.append(apart(exact.climbed(IWAESTL(particles)), truth, "guide") / largest)
    assert relative[0] < 1e-9
    assert 0.5 < relative[1] < relative[2]
    built = gaussian_toy(*GUIDE_A)
    built.guide.loc = torch.nn.Parameter(torch.zeros(20_000))
    torch.manual_seed(0)
    IWAESTL(10)(built)(ones(20_000)).backward()
    draws = -20_000 * built.guide.loc.grad
    grid = Exact(Grid(12, 5), toy=GUIDE_A)  # at K = 5 the true gradient is larger than at 10
    assert z_score(draws, grid.climbed(IWAE(5))["guide.loc"]) > 100


def test_the_limit_is_the_gradient_of_another_divergence():
    """-d KL(p(z | x), q) / d loc = (E[z | x] - loc) / scale^2 = .5 for guide A: K = 2,000, 800 data, seed 0,
    within 3 standard errors."""
    built = gaussian_toy(*GUIDE_A)
    built.guide.loc = torch.nn.Parameter(torch.zeros(800))
    torch.manual_seed(0)
    IWAESTL(2_000)(built)(ones(800)).backward()
    assert z_score(-800 * built.guide.loc.grad, 0.5).abs() < 3

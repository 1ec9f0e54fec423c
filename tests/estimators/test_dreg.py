"""Doubly reparameterized gradients: those of iwae in the mean, of no variance at the posterior."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import math

import pytest
import torch

from ppvae import registry
from ppvae.build import build
from ppvae.estimators import IWAE, DReG
from tests.estimators.quadrature import Exact, Grid, apart
from tests.test_proof_pairs import make
from tests.toys import MLP_VAE, assert_same, bits, loss_and_gradients, z_score

pytestmark = pytest.mark.usefixtures("float64")


def pair(name):
    return (build(MLP_VAE), bits()) if name == "mlp" else make(name)[1:]


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("name", ["mlp", "conditional_two_layer:PAIR", "sequence:PAIR", "mixture:PAIR"])
def test_value_and_the_models_gradient_are_those_of_iwae(name, particles):
    """Exact to 1e-9 under one seed; a latent that the model sums out among them."""
    built, batch = pair(name)
    wanted, theirs = loss_and_gradients(IWAE(particles), built, batch)
    found, ours = loss_and_gradients(DReG(particles), built, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    model = [n for n in ours if n.startswith("model")]
    assert model
    assert_same({n: ours[n] for n in model}, {n: theirs[n] for n in model})


@pytest.mark.parametrize(("layers", "particles"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)])
def test_mean_gradient_is_that_of_iwae(layers, particles):
    """Without sampling: to 1e-6 on the grids of one layer, 1e-4 on two layers at K = 2."""
    nodes = {1: 60, 2: 60, 3: 30, 4: 16}[layers * particles]
    exact = Exact(Grid(nodes, particles, layers), layers)
    difference = apart(exact.climbed(DReG(particles)), exact.climbed(IWAE(particles)))
    assert difference < (1e-4 if layers * particles == 4 else 1e-6)


def test_no_variance_at_the_posterior():
    """Exact to 1e-9: every single estimate of the guide's gradient is zero; that of iwae is not."""
    exact = Exact(Grid(7, 3), toy=(0.5, math.sqrt(0.5)))
    for gradient in exact.each(DReG(3)).values():
        assert gradient.abs().max() < 1e-9
    assert min(gradient.abs().max() for gradient in exact.each(IWAE(3)).values()) > 0.1


def posterior_ppca(rows=6):
    """The full-covariance pair of pPCA with its guide at the exact posterior."""
    built = build(registry.find("ppca_full"), seed=3)
    model = built.model
    with torch.no_grad():
        model.mean.normal_()
        precision = model.precision()
        weight = torch.linalg.solve(precision, model.weight.T / model.scale**2)
        built.guide.encoder.weight.copy_(weight)
        built.guide.encoder.bias.copy_(-weight @ model.mean)
        built.guide.scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision))
    return built, {"x": torch.randn(rows, 10)}


def test_no_variance_at_the_posterior_of_ppca():
    """Exact to 1e-9: nothing moves an amortized guide that is the posterior."""
    built, batch = posterior_ppca()
    evidence = built.pair.evidence(built.model, batch)
    torch.testing.assert_close(DReG(5).estimate(built, batch).bound, evidence.detach(), rtol=1e-9, atol=1e-9)
    for estimator, still in ((DReG(5), True), (IWAE(5), False)):
        _, found = loss_and_gradients(estimator, built, batch)
        guide = [g.abs().max() for n, g in found.items() if n.startswith("guide")]
        assert len(guide) == 3
        assert (max(guide) < 1e-9) if still else (min(guide) > 1e-3)


def test_shared_parameters_get_both_parts():
    """The guide is the exact posterior, read off the model: in the mean the gradient is that of log p(x),
    100 blocks of 50 data, K = 3, seed 0, within 4.5 standard errors (41 numbers)."""
    built = build(registry.find("ppca"), seed=3)
    x = torch.randn(1, 10).expand(50, -1)
    truth = torch.autograd.grad(built.pair.evidence(built.model, {"x": x}).mean(), list(built.parameters()))
    torch.manual_seed(0)
    blocks = []
    for _ in range(100):
        loss = DReG(3)(built)({"x": x})
        blocks.append(torch.cat([-g.flatten() for g in torch.autograd.grad(loss, list(built.parameters()))]))
    assert z_score(torch.stack(blocks), torch.cat([t.flatten() for t in truth])).abs().max() < 4.5


def test_reported_bound_has_no_beta():
    """Exact: beta weighs what is optimized."""
    built, batch = build(MLP_VAE), bits()
    torch.manual_seed(0)
    bound = DReG(3, beta=0.3).estimate(built, batch).bound
    torch.manual_seed(0)
    torch.testing.assert_close(bound, IWAE(3).estimate(built, batch).bound)

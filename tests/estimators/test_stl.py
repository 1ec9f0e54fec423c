"""The path-derivative ELBO: elbo in the mean, of no variance at the posterior, with global latents too."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import ELBO, STL
from ppvae.pair import Pair
from tests.estimators.quadrature import Exact, Grid, apart
from tests.test_proof_pairs import make
from tests.toys import MLP_VAE, assert_same, bits, gaussian_toy, loss_and_gradients, ones

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("particles", [1, 3])
def test_value_and_the_models_gradient_are_the_elbos(particles):
    """Exact to 1e-9 under one seed; the guide's gradient is another."""
    built, batch = build(MLP_VAE), bits()
    wanted, theirs = loss_and_gradients(ELBO(particles), built, batch)
    found, ours = loss_and_gradients(STL(particles), built, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    model = [name for name in ours if name.startswith("model")]
    assert_same({n: ours[n] for n in model}, {n: theirs[n] for n in model})
    for name in ours.keys() - set(model):
        assert (ours[name] - theirs[name]).abs().max() > 1e-3


@pytest.mark.parametrize(("layers", "particles"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_mean_gradient_is_the_elbos(layers, particles):
    """To 1e-9, for any K and through both layers: without error on the grid."""
    exact = Exact(Grid({1: 40, 2: 40, 3: 20, 4: 12}[layers * particles], particles, layers), layers)
    assert apart(exact.climbed(STL(particles)), exact.climbed(ELBO(particles))) < 1e-9


def test_no_variance_at_the_posterior():
    """Exact to 1e-9: every single estimate of the guide's gradient is zero; the elbo's is not."""
    exact = Exact(Grid(7, 2), toy=(0.5, math.sqrt(0.5)))
    for gradient in exact.each(STL(2)).values():
        assert gradient.abs().max() < 1e-9
    assert min(gradient.abs().max() for gradient in exact.each(ELBO(2)).values()) > 0.1


def test_global_latents_by_hand():
    """Exact to 1e-9, N = 24 in a batch of 8: the guide's gradient of log p - log q with log q's parameters
    held fixed, the global part once over N."""
    _, built, data = make("regression:PAIR")
    batch = {name: value[:8] for name, value in data.items()}
    for beta in (1.0, 0.4):
        loss, found = loss_and_gradients(STL(3, beta=beta), built, batch)
        torch.manual_seed(0)
        terms = built.score(batch, 3)
        w, site = terms.sites["w"].value, terms.sites["w"]
        fixed = dist.Normal(built.guide.loc.detach(), built.guide.scale.detach()).to_event(1)
        ratio = site.log_p - fixed.log_prob(w).reshape(3)
        wanted = terms.log_likelihood.mean() + beta * ratio.mean() / 24
        wanted.backward()
        torch.testing.assert_close(loss, -wanted.detach(), rtol=1e-9, atol=1e-9)
        theirs = {name: p.grad for name, p in built.named_parameters()}
        assert_same(found, theirs, -1)
        built.zero_grad()
    torch.manual_seed(0)
    bound = STL(3, beta=0.4).estimate(built, batch).bound
    torch.manual_seed(0)
    torch.testing.assert_close(bound, ELBO(3).estimate(built, batch).bound, rtol=1e-9, atol=1e-9)


def test_global_parameters_of_the_model_count_once():
    """Exact to 1e-9 under one seed: the model's gradient is the elbo's where the prior of a global latent has
    parameters and an observation lies outside the data."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc, self.gain = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(1.2))

        def forward(self, x=None, *, n=None):
            w = pyro.sample("w", dist.Normal(self.loc, 1.0))
            pyro.sample("seen", dist.Normal(self.gain * w, 1.0), obs=torch.tensor(0.4))
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(self.gain * w, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.w, self.z = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.5))

        def forward(self, x, *, n=None):
            w = pyro.sample("w", dist.Normal(self.w, 0.8))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(w + self.z * x, 0.9))

    built, batch = build(Pair(model=Model, guide=Guide, data=None)), {"x": torch.randn(4)}
    built.num_data = 20
    wanted, theirs = loss_and_gradients(ELBO(2), built, batch)
    found, ours = loss_and_gradients(STL(2), built, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    model = [name for name in ours if name.startswith("model")]
    assert_same({n: ours[n] for n in model}, {n: theirs[n] for n in model})


def test_an_enumerated_site_of_the_guide_is_refused():
    _, built, batch = make("mixture:IN_GUIDE")
    with pytest.raises(PairError, match="'c', which the guide enumerates"):
        STL()(built)(batch)


def test_reported_bound_has_no_beta():
    """Exact: beta weighs what is optimized."""
    built = gaussian_toy(0.2, 0.7)
    torch.manual_seed(0)
    bound = STL(beta=0.3).estimate(built, ones(5)).bound
    torch.manual_seed(0)
    torch.testing.assert_close(bound, ELBO().estimate(built, ones(5)).bound)

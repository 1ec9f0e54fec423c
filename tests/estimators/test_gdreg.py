"""Learned priors by path derivatives: iwae's gradient in the mean, dreg's where no prior has parameters."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import IWAE, DReG, GDReG
from ppvae.pair import Pair
from tests.estimators.quadrature import Exact, Grid, apart
from tests.test_proof_pairs import make
from tests.toys import MLP_VAE, GaussianGuide, assert_same, bits, loss_and_gradients, z_score

pytestmark = pytest.mark.usefixtures("float64")

PRIORS = {1: ("loc", "log_scale"), 2: ("loc2", "log_scale2", "slope", "log_scale1")}
"""The model's parameters in its priors, by the number of layers."""


@pytest.mark.parametrize(("layers", "particles"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)])
def test_mean_gradient_is_that_of_iwae(layers, particles):
    """Without sampling: to 1e-6 on the grids of one layer, 1e-4 on two layers at K = 2, where the prior of
    one depends on the other and the guide draws them the other way round. Single estimates differ."""
    nodes = {1: 60, 2: 60, 3: 30, 4: 16}[layers * particles]
    exact = Exact(Grid(nodes, particles, layers), layers)
    found, wanted = exact.each(GDReG(particles)), exact.each(IWAE(particles))
    means = [{name: exact.mean(g) for name, g in each.items()} for each in (found, wanted)]
    assert apart(*means) < (1e-4 if layers * particles == 4 else 1e-6)
    for name in PRIORS[layers]:
        assert (found[f"model.{name}"] - wanted[f"model.{name}"]).abs().max() > 0.1


@pytest.mark.parametrize("layers", [1, 2])
def test_all_but_priors_is_dreg(layers):
    """Exact to 1e-9, every single estimate."""
    exact = Exact(Grid(6, 2, layers), layers)
    found, wanted = exact.each(GDReG(2)), exact.each(DReG(2))
    rest = [n for n in found if n.removeprefix("model.") not in PRIORS[layers]]
    assert len(rest) > 3
    assert_same({n: found[n] for n in rest}, {n: wanted[n] for n in rest})


def test_priors_without_parameters_need_nothing():
    """Exact to 1e-9 under one seed: dreg. The prior of the second pair is no Normal."""

    def laplace(x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Laplace(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.loc, 1.0))

    for pair, batch in (
        (MLP_VAE, bits()),
        (Pair(model=laplace, guide=Guide, data=None), {"x": torch.ones(3)}),
    ):
        built = build(pair)
        wanted, theirs = loss_and_gradients(DReG(3), built, batch)
        found, ours = loss_and_gradients(GDReG(3), built, batch)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        assert_same(ours, theirs)


def test_vectors_and_amortized_layers():
    """The conditional two-layer VAE, K = 3, 60 blocks of 40 x 16 data, seed 0: every entry of the mean within
    4.5 standard errors of iwae's (117 numbers)."""
    _, built, data = make("conditional_two_layer:PAIR")
    batch = {name: value.repeat(40, *[1] * (value.dim() - 1)) for name, value in data.items()}
    torch.manual_seed(0)
    draws = []
    for _ in range(60):
        each = []
        for estimator in (GDReG(3), IWAE(3)):
            grads = torch.autograd.grad(estimator(built)(batch), list(built.parameters()))
            each.append(torch.cat([g.flatten() for g in grads]))
        draws.append(each[0] - each[1])
    assert z_score(torch.stack(draws), 0.0).abs().max() < 4.5


class Masked(nn.Module):
    """Two data, of which the second is masked out, latent and all."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.3, 0.3]))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=torch.tensor([True, False])):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class MaskedGuide(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_a_masked_latent_has_no_prior():
    """Exact: its prior's parameter does not move."""
    built = build(Pair(model=Masked, guide=MaskedGuide, data=None))
    _, found = loss_and_gradients(GDReG(4), built, {"x": torch.ones(2)})
    assert found["model.loc"][0].abs() > 1e-3
    assert found["model.loc"][1] == 0


class Gammas(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0), self.rate))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class LogNormals(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.LogNormal(self.loc, 0.5))


class Mixture(nn.Module):
    """A latent whose prior depends on one that the model sums out."""

    def __init__(self):
        super().__init__()
        self.locs = nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.4)))
            z = pyro.sample("z", dist.Normal(self.locs[0] * (1 - c) + self.locs[1] * c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("pair", "line"),
    [
        (Pair(model=Gammas, guide=LogNormals, data=None), "prior of 'z'.*is a Gamma: use dreg"),
        (
            Pair(model=Mixture, guide=GaussianGuide, data=None, discrete={"c": "enumerate"}),
            "'z', whose prior depends on a latent that is summed out: use dreg",
        ),
    ],
    ids=["Gamma", "summed_out"],
)
def test_other_learned_priors_are_refused(pair, line):
    built, batch = build(pair), {"x": torch.ones(2)}
    with pytest.raises(PairError, match=line):
        GDReG(3)(built)(batch)
    DReG(3)(built)(batch).backward()

"""The information-maximizing VAE: its discrepancy against the closed form, without bias at few rows."""
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
from ppvae.estimators import ELBO, MMD
from ppvae.estimators.mmd import squared_mmd
from ppvae.pair import Pair
from tests.test_proof_pairs import make
from tests.toys import MLP_VAE, bits, gaussian_toy, loss_and_gradients, ones, z_score

pytestmark = pytest.mark.usefixtures("float64")


def truth(loc, scale, length=1.0):
    """MMD^2 of N(loc, scale^2) and N(0, 1) in closed form."""

    def mean_kernel(distance, variance):
        spread = length**2 + variance
        return length / spread.sqrt() * (-(distance**2) / (2 * spread)).exp()

    zero, two = torch.tensor(0.0), torch.tensor(2.0)
    return mean_kernel(zero, 2 * scale**2) + mean_kernel(zero, two) - 2 * mean_kernel(loc, 1 + scale**2)


def test_discrepancy_of_two_gaussians():
    """N(1, .25) against N(0, 1), length 1: .326197. 30 batches of 400 rows, K = 1 and 2, seed 0: value and
    gradient of the whole loss within 3 standard errors of the closed form."""
    at = torch.tensor([1.0, math.log(0.5)], requires_grad=True)
    value = truth(at[0], at[1].exp())
    assert value.item() == pytest.approx(0.326197, abs=1e-6)
    distortion = 0.5 * math.log(2 * math.pi) + 0.5 * ((1 - at[0]) ** 2 + (2 * at[1]).exp())
    wanted = torch.autograd.grad(distortion + 3 * value, at)[0]
    built = gaussian_toy(1.0, 0.5)
    for particles in (1, 2):
        torch.manual_seed(0)
        values, slopes = [], []
        for _ in range(30):
            objective = MMD(particles, weight=3.0, length=1.0).estimate(built, ones(400))
            values.append(objective.metrics["mmd"])
            slopes.append(torch.stack(torch.autograd.grad(objective.losses["all"], [*built.parameters()])))
        assert torch.stack(values).std() / math.sqrt(30) < 0.01
        assert z_score(torch.stack(values), 0.326197).abs() < 3
        assert z_score(torch.stack(slopes), wanted).abs().max() < 3


def test_pairs_are_counted_by_hand():
    """Exact to 1e-12: means over pairs of different rows, among codes, among prior draws and between them."""
    z, y, length = torch.randn(3, 2, 4), torch.randn(3, 2, 4), 1.7

    def kernel(a, b):
        return (-((a - b) ** 2).sum() / (2 * length**2)).exp()

    rows, codes, prior = [0, 0, 1, 1, 2, 2], z.reshape(6, 4), y.reshape(6, 4)
    pairs = [(i, j) for i in range(6) for j in range(6) if rows[i] != rows[j]]
    zz = [kernel(codes[i], codes[j]) for i, j in pairs]
    yy = [kernel(prior[i], prior[j]) for i, j in pairs]
    zy = [kernel(codes[i], prior[j]) for i, j in pairs]
    wanted = sum(zz) / len(zz) + sum(yy) / len(yy) - 2 * sum(zy) / len(zy)
    torch.testing.assert_close(squared_mmd(z, y, length), wanted, rtol=1e-12, atol=1e-12)


def test_codes_far_from_zero_do_not_cancel():
    """float32, the same cloud 10,000 away: within 1e-3 of the value in float64."""
    z, y = torch.randn(64, 1, 2, dtype=torch.float64), torch.randn(64, 1, 2, dtype=torch.float64)
    near = squared_mmd(z, y, 1.5)
    far = squared_mmd((z + 1e4).float(), (y + 1e4).float(), 1.5)
    assert (far.double() - near).abs() < 1e-3


def test_no_bias_where_the_prior_depends_on_a_condition():
    """The guide is the prior, N(5 y, .1^2), y in {0, 1}: 300 batches of 4, seed 0, mean within 3 standard
    errors of 0."""

    class Model(nn.Module):
        def forward(self, x=None, y=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(5 * y, 0.1))
                return pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.1))

        def forward(self, x, y, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(5 * y, self.scale))

    built = build(Pair(model=Model, guide=Guide, data=None, conditions=("y",)))
    torch.manual_seed(0)
    found = []
    with torch.no_grad(), pyro.validation_enabled(False):
        for _ in range(300):
            y = torch.randint(2, (4,)).to(torch.get_default_dtype())
            found.append(MMD(2).estimate(built, {"x": 5 * y, "y": y}).metrics["mmd"])
    assert z_score(torch.stack(found), 0.0).abs() < 3


def test_no_bias_with_two_rows():
    """Two rows, K = 3, where the guide is the prior: 500 batches, seed 0, mean within 3 standard errors of
    0, a good part of the estimates negative."""
    built = gaussian_toy(0.0, 1.0)
    torch.manual_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False):
        found = torch.stack([MMD(3).estimate(built, ones(2)).metrics["mmd"] for _ in range(500)])
    assert z_score(found, 0.0).abs() < 3
    assert (found < 0).double().mean() > 0.3


def test_loss_is_distortion_and_weighed_discrepancy():
    """Exact to 1e-9 under one seed: the likelihood's part is the ELBO's, without its rate; no bound."""
    built, batch = build(MLP_VAE), bits()
    torch.manual_seed(0)
    objective = MMD(2, weight=7.0).estimate(built, batch)
    torch.manual_seed(0)
    distortion = ELBO(2).estimate(built, batch).metrics["distortion"]
    wanted = distortion + 7 * objective.metrics["mmd"]
    torch.testing.assert_close(objective.losses["all"].detach(), wanted, rtol=1e-9, atol=1e-9)
    assert objective.bound is None
    # By default the kernel is as long as the root of the latent's size, here 2.
    torch.manual_seed(0)
    same = MMD(2, length=math.sqrt(2)).estimate(built, batch).metrics["mmd"]
    torch.testing.assert_close(same, objective.metrics["mmd"])


class Prior(nn.Module):
    """A learned prior of three numbers in an inner plate."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.7))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            pyro.sample("x", dist.Normal(z.sum(-2, keepdim=True), 1.0), obs=x)


class Parts(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("particles", [1, 2])
def test_a_learned_prior_moves_to_the_codes(vectorize, particles):
    """Without a likelihood's help (weight 1e6): the prior's location falls towards the guide's, which rises;
    inner plates make one vector a datum."""
    built = build(Pair(model=Prior, guide=Parts, data=None, plates=2, vectorize=vectorize))
    _, found = loss_and_gradients(MMD(particles, weight=1e6), built, {"x": torch.zeros(200)})
    assert found["model.loc"] > 0
    assert found["guide.loc"] < 0


@pytest.mark.parametrize("particles", [1, 3])
def test_draws_are_told_apart_by_row(particles):
    """Exact to 1e-12 under one seed: draws of one datum are one row's, the parts of an inner plate one
    vector."""
    built, batch = build(Pair(model=Prior, guide=Parts, data=None, plates=2)), {"x": torch.zeros(4)}
    torch.manual_seed(0)
    found = MMD(particles).estimate(built, batch).metrics["mmd"]
    torch.manual_seed(0)
    site = built.score(batch, particles).sites["z"]
    codes, prior = (v.reshape(particles, 3, 4).permute(2, 0, 1) for v in (site.value, site.p.rsample()))
    torch.testing.assert_close(found, squared_mmd(codes, prior, math.sqrt(3)), rtol=1e-12, atol=1e-12)


class Rates(nn.Module):
    """A prior with parameters that is not reparameterized in closed form."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            parts = dist.Normal(torch.tensor([-1.0, 1.0]), 1.0)
            prior = dist.MixtureSameFamily(dist.Categorical(logits=self.logits), parts)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Single(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_what_is_refused():
    for place, line in (
        ("conditional_two_layer:PAIR", "this pair has z1, z2: use elbo"),
        ("regression:PAIR", "this pair has w"),
        ("undirected:PAIR", "reparameterized guide"),
    ):
        _, built, batch = make(place)
        with pytest.raises(PairError, match=line):
            MMD()(built)(batch)
    with pytest.raises(PairError, match="two or more"):
        MMD()(build(MLP_VAE))(bits(1))
    built = build(Pair(model=Rates, guide=Single, data=None))
    with pytest.raises(PairError, match="prior of 'z' that is fixed or reparameterized"):
        MMD()(built)({"x": torch.zeros(3)})
    built.model.logits.requires_grad_(False)
    MMD()(built)({"x": torch.zeros(3)}).backward()

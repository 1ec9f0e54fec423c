"""Gumbel-softmax: what its value is, and that its bias is there and falls with the temperature."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import kl_divergence

from ppvae.build import build
from ppvae.errors import PairError, UsageError
from ppvae.estimators import ELBO, Gumbel, find, relaxations, spelled
from ppvae.pair import Pair
from tests.estimators.discrete_toys import codes, components, layers, onehots, rows
from tests.estimators.every_draw import truth
from tests.toys import BernoulliGuide, bernoulli_toy, gaussian_toy, loss_and_gradients, ones, z_score

pytestmark = pytest.mark.usefixtures("float64")
GRID = 20_001


@pytest.fixture
def quantiles(monkeypatch):
    """Instead of draws, the midpoints of GRID equal parts of the noise, one a datum: a quadrature."""
    u = (torch.arange(GRID) + 0.5) / GRID
    monkeypatch.setattr(relaxations, "noise_like", lambda logits, kind: u.logit().expand_as(logits))


def slope(estimator, built, rows=GRID):
    loss = estimator.estimate(built, ones(rows)).losses["all"]
    return -torch.autograd.grad(loss, built.guide.logit)[0].item()


def test_the_bias_falls_with_the_temperature(quantiles):
    """By quadrature to 1e-4, on the toy: of the slope .0603155, less than 1 % is missing at T = .01, and more
    than all of it at T = 1."""
    built = bernoulli_toy()
    biases = [
        slope(Gumbel(temperature=t, least=t), built) - 0.0603155 for t in (1.0, 0.5, 0.25, 0.1, 0.05, 0.01)
    ]
    assert biases == sorted(biases)
    assert biases[0] < -0.1
    assert -0.0006 < biases[-1] < 0.0


def test_the_bias_is_seen_for_categories():
    """200,000 draws for each of two T, seed 0: the guide's gradient at T = 1 is off by more than 20 standard
    errors in some entry, at T = .1 by less than a third of that bias."""
    built, batch = codes("onehot"), rows(1)
    _, wanted = truth(lambda log_w: log_w.mean(0), built, batch, 1, z=onehots(1, 3)[:, 0])
    biases = []
    for temperature in (1.0, 0.1):
        torch.manual_seed(0)
        estimator = Gumbel(temperature=temperature, least=0.1)
        slopes = []
        for _ in range(40):
            many = {"x": batch["x"].expand(5_000, 2)}
            loss = estimator.estimate(built, many).losses["all"]
            slopes.append(torch.autograd.grad(loss, built.guide.net.bias)[0])
        slopes = torch.stack(slopes)
        biases.append((slopes.mean(0) - wanted["guide.net.bias"]).abs().max())
        if temperature == 1.0:
            assert z_score(slopes, wanted["guide.net.bias"]).abs().max() > 20
    assert biases[1] < biases[0] / 3


def test_the_default_rate_is_the_closed_form_of_the_discrete_latents():
    """Exact to 1e-9 whatever is drawn: distortion at the relaxed point plus KL(q, p), for categories under
    to_event."""
    for kind in ("bits", "onehots", "onehot"):
        built, batch = codes(kind), rows()
        estimator = Gumbel(particles=3, temperature=0.7)
        torch.manual_seed(0)
        loss = estimator.estimate(built, batch).losses["all"]
        torch.manual_seed(0)
        terms = estimator.score(built, batch, {})
        z = terms.sites["z"]
        assert z.how == "relaxed"
        assert ((z.value > 1e-9) & (z.value < 1 - 1e-9)).any()
        kl = kl_divergence(z.q, z.p.expand(z.q.batch_shape)).mean()
        torch.testing.assert_close(loss, -terms.log_likelihood.mean() + kl, rtol=1e-9, atol=1e-9)
        assert estimator.estimate(built, batch).bound is None


def test_where_no_closed_form_holds_the_ratio_stands_for_it():
    """Exact: guide z1, z2, z3 against model z3, z2, z1: only z3's prior is known when it is drawn."""
    for order, closed in (("downward", "123"), ("upward", "3"), ("mixed", "31")):
        built, batch = layers(order), rows()
        estimator = Gumbel(temperature=0.5)
        terms = estimator.score(built, batch, {})
        for name, site in terms.sites.items():
            if name == "x":
                continue
            found, kl = estimator.site_ratio(site, terms), site.analytic_kl()
            wanted = -kl if name[1] in closed else site.log_ratio
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
            assert (site.log_ratio + kl).abs().max() > 1e-3


@pytest.mark.parametrize("temperature", [0.4, 1.0])
@pytest.mark.parametrize("kind", ["bits", "onehots", "onehot"])
def test_relaxed_densities_are_those_of_torch(kind, temperature):
    """Exact to 1e-8: log p(y) - log q(y) of RelaxedBernoulli and RelaxedOneHotCategorical at one T."""
    built, batch = codes(kind), rows()
    estimator = Gumbel(particles=2, temperature=temperature, density="relaxed")
    terms = estimator.score(built, batch, {})
    z = terms.sites["z"]
    total = torch.zeros(())
    for d, sign in ((z.p, 1.0), (z.q, -1.0)):
        logits = relaxations.innermost(d).logits
        t = torch.tensor(temperature)
        if kind == "bits":
            law = torch.distributions.RelaxedBernoulli(t, logits=logits)
        else:
            law = torch.distributions.RelaxedOneHotCategorical(t, logits=logits)
        log_prob = law.log_prob(z.value)
        total = total + sign * (log_prob.sum(-1) if kind != "onehot" else log_prob)
    torch.testing.assert_close(estimator.site_ratio(z, terms), total, rtol=1e-8, atol=1e-8)


def test_the_relaxed_bound_bounds_the_relaxed_evidence(quantiles):
    """By quadrature to 1e-4: the mean of the bound is below the relaxed evidence for every q, and nearer for
    a q that is nearer the posterior."""
    temperature, n = 0.6, GRID
    noise = ((torch.arange(n) + 0.5) / n).logit()
    prior = torch.tensor(0.3).logit()
    y = torch.sigmoid((prior + noise) / temperature)
    evidence = (0.2 + 0.7 * y).mean().log().item()
    built = bernoulli_toy()
    estimator = Gumbel(temperature=temperature, density="relaxed")
    gaps = []
    for logit in (-3.0, -0.5, 0.0, 3.0):
        with torch.no_grad():
            built.guide.logit.fill_(logit)
        gaps.append(evidence - estimator.estimate(built, ones(n)).bound.mean().item())
    assert min(gaps) > 0.001
    assert gaps[1] < gaps[0]
    assert gaps[2] < gaps[3]
    assert evidence != pytest.approx(-0.891598, abs=0.01)  # nor is it the discrete one


def test_the_relaxed_rate_knows_no_temperature(quantiles):
    """By quadrature to 1e-6: KL of Logistic(.405) from Logistic(-.847), above the discrete KL(.6, .3)."""
    built, rates = bernoulli_toy(), []
    for t in (1.0, 0.2):
        terms = (e := Gumbel(temperature=t, density="relaxed")).score(built, ones(GRID), {})
        rates.append(-e.site_ratio(terms.sites["z"], terms).mean().item())
    assert rates[0] == pytest.approx(rates[1], abs=1e-9)
    discrete = 0.6 * math.log(2) + 0.4 * math.log(4 / 7)
    assert rates[0] > discrete + 0.01


def test_inner_plates_sum_in_both_densities():
    """Exact to 1e-9: three bits in an inner plate are three bits under to_event: each density, K = 1 and
    2."""

    def law(plated, logits):
        d = dist.Bernoulli(logits=logits)
        return d if plated else d.to_event(1)

    class Guide(nn.Module):
        def __init__(self, model=None, plated=False):
            super().__init__()
            self.plated = plated
            self.logits = nn.Parameter(torch.tensor([0.3, -0.6, 1.1]))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                if self.plated:
                    with pyro.plate("inner", 3, dim=-2):
                        pyro.sample("z", law(True, self.logits.unsqueeze(-1)))
                else:
                    pyro.sample("z", law(False, self.logits))

    def model(plated):
        def run(x=None, *, n=None):
            logits = torch.tensor([-0.4, 0.2, 0.5])
            with pyro.plate("data", len(x), dim=-1):
                if plated:
                    with pyro.plate("inner", 3, dim=-2):
                        total = pyro.sample("z", law(True, logits.unsqueeze(-1))).sum(-2, keepdim=True)
                    total = total.squeeze(-2) if total.dim() == 2 else total
                else:
                    total = pyro.sample("z", law(False, logits)).sum(-1)
                pyro.sample("x", dist.Normal(total, 1.0), obs=x)

        return run

    noise = torch.randn(2, 3, 4)  # (K, bits, B)
    for density in ("kl", "relaxed"):
        for particles in (1, 2):
            found = []
            for plated in (True, False):
                pair = Pair(model=model(plated), guide=Guide, data=None, plates=2 if plated else 1)
                estimator = Gumbel(particles, density=density)

                def draws(logits, kind, plated=plated, particles=particles):
                    given = noise[:particles] if plated else noise[:particles].transpose(1, 2)
                    return given.reshape(logits.shape)

                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(relaxations, "noise_like", draws)
                    found.append(estimator.estimate(build(pair, plated=plated), ones(4)).losses["all"])
            torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_the_temperature_falls_and_stops():
    """T = max(least, temperature exp(-rate step)), and the knob wins over what was given."""
    estimator = find("gumbel:temperature=2,least=0.5,rate=0.01")
    assert estimator.schedule(0) == {"temperature": 2.0}
    assert estimator.schedule(50)["temperature"] == pytest.approx(2 * math.exp(-0.5))
    assert estimator.schedule(1000) == {"temperature": 0.5}
    built = bernoulli_toy()
    torch.manual_seed(0)
    cold = estimator.estimate(built, ones(50), {"temperature": torch.tensor(0.1)}).losses["all"]
    torch.manual_seed(0)
    assert cold == Gumbel(temperature=0.1).estimate(built, ones(50)).losses["all"]
    torch.manual_seed(0)
    assert cold != estimator.estimate(built, ones(50)).losses["all"]


def test_continuous_latents_are_not_relaxed():
    """A Gaussian beside c draws itself, and where nothing is discrete it is the ELBO."""
    terms = Gumbel().score(components(), rows(2, 1), {})
    assert (terms.sites["c"].how, terms.sites["z"].how) == ("relaxed", "reparameterized")
    loss, _ = loss_and_gradients(Gumbel(2), gaussian_toy(0.2, 0.7), ones(4))
    wanted, _ = loss_and_gradients(ELBO(2), gaussian_toy(0.2, 0.7), ones(4))
    assert loss == wanted


def test_a_choice_by_site_wins():
    """Of three bits, one by the score function and one summed out."""
    estimator = find("gumbel:z3=score,z1=enumerate")
    terms = estimator.score(layers(), rows(), {})
    assert [terms.sites[f"z{i}"].how for i in (1, 2, 3)] == ["enumerate", "relaxed", "score"]
    estimator.estimate(layers(), rows()).losses["all"].backward()
    torch.manual_seed(0)
    _, every = loss_and_gradients(Gumbel(temperature=0.3), layers(), rows())
    _, same = loss_and_gradients(find("elbo:z1=gumbel,z2=gumbel,z3=gumbel"), layers(), rows())
    assert every.keys() == same.keys()


def test_refuses_with_the_reason():
    def other(law):
        def model(x=None, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", law())
                pyro.sample("x", dist.Normal(z.to(x), 1.0), obs=x)

        class Guide(nn.Module):
            def __init__(self, model=None):
                super().__init__()
                self.unused = nn.Parameter(torch.zeros(()))

            def forward(self, x, *, n=None):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", law())

        return build(Pair(model=model, guide=Guide, data=None))

    for law, name in (
        (lambda: dist.Poisson(torch.tensor(2.0)), "Poisson"),
        (lambda: dist.Categorical(torch.ones(3)), "Categorical"),
    ):
        with pytest.raises(PairError, match=f"'z' is drawn from a {name}, which has no relaxation"):
            Gumbel()(other(law))(ones(3))
    for text, reason in (
        ("gumbel:least=2", "least=2 must lie above 0 and not above temperature=1"),
        ("gumbel:rate=-1", "rate=-1"),
        ("gumbel:density=kj", "there are kl and relaxed"),
    ):
        with pytest.raises(UsageError, match=reason):
            find(text)


def test_refuses_what_the_relaxed_density_does_not_see():
    """A mask of pyro's, and particles one by one."""

    class Masked(BernoulliGuide):
        def forward(self, x, *, n=None):
            with poutine.mask(mask=torch.tensor([True, False])):
                super().forward(x)

    with pytest.raises(PairError, match="density=relaxed knows no mask around latent 'z': use density=kl"):
        Gumbel(density="relaxed")(bernoulli_toy(Masked))(ones(2))
    built = codes("bits", vectorize=False)
    with pytest.raises(PairError, match="wants all particles in one pass"):
        Gumbel(2, density="relaxed")(built)(rows())
    Gumbel(1, density="relaxed")(built)(rows())
    Gumbel(2)(built)(rows())


def test_is_found_by_name():
    text = "gumbel:particles=2,temperature=2,least=0.3,rate=0.001,density=relaxed"
    assert spelled(find(text)) == text
    assert Gumbel.claims.biased == ("model", "guide")
    assert set(Gumbel().targets()) == {"model", "guide"}

"""The score function with a leave-one-out baseline."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.build import build
from ppvae.estimators import ELBO, Reinforce, find, spelled
from ppvae.pair import Pair
from tests.estimators.discrete_toys import BIT, codes, components, layers, onehots, rows
from tests.estimators.every_draw import Noise, assert_unbiased, moments
from tests.toys import MLP_VAE, assert_same, bernoulli_toy, bits, loss_and_gradients, ones

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("particles", [1, 2, 5])
def test_is_exact_in_the_mean_on_the_bernoulli_toy(particles):
    """Over all 2^K draws, to 1e-6 of the known figures and to 1e-9 of the sum."""
    found = assert_unbiased(Reinforce(particles), bernoulli_toy(), ones(1), z=BIT)
    assert found.bound.item() == pytest.approx(-0.899033, abs=1e-6)
    assert -found.gradient["guide.logit"].item() == pytest.approx(0.0603155, abs=1e-7)
    if particles == 1:
        assert found.variance["guide.logit"].item() == pytest.approx(0.216279, abs=1e-6)


@pytest.mark.parametrize("order", ["downward", "upward", "mixed"])
def test_is_exact_in_the_mean_with_several_layers(order):
    """To 1e-9 over all 64 draws of three dependent bits, K = 2."""
    assert_unbiased(Reinforce(2), layers(order), rows(1), z1=BIT, z2=BIT, z3=BIT)


def test_is_exact_in_the_mean_for_categories_and_beside_a_gaussian():
    assert_unbiased(Reinforce(3), codes("onehot"), rows(1), z=onehots(1, 3)[:, 0])
    noise = Noise(torch.tensor([-0.8, 1.1]))
    for estimator in (ELBO(2), Reinforce(2)):
        assert_unbiased(estimator, components(), rows(1, 1), c=onehots(1, 3)[:, 0], z=noise)


def test_the_baseline_is_the_mean_of_the_others():
    signal = torch.randn(4, 3)
    found = Reinforce(4).centered(signal)
    for k in range(4):
        others = torch.cat([signal[:k], signal[k + 1 :]]).mean(0)
        torch.testing.assert_close(found[k], signal[k] - others, rtol=1e-12, atol=1e-12)


def test_one_particle_is_the_elbo():
    built, batch = layers("upward"), rows(3)
    for seed in range(3):
        loss, found = loss_and_gradients(Reinforce(), built, batch, seed)
        wanted_loss, wanted = loss_and_gradients(ELBO(), built, batch, seed)
        assert loss == wanted_loss
        assert_same(found, wanted)


def test_the_baseline_lowers_the_variance_and_not_the_mean():
    """Exactly, on the toy at K = 2: from .108140 (.216279 / 2) by more than ten times."""
    built = bernoulli_toy()
    plain, centered = (moments(e, built, ones(1), z=BIT) for e in (ELBO(2), Reinforce(2)))
    assert plain.variance["guide.logit"].item() == pytest.approx(0.216279 / 2, abs=1e-6)
    assert centered.variance["guide.logit"] < 0.1 * plain.variance["guide.logit"]
    assert_same(centered.gradient, plain.gradient)


def test_is_the_elbo_where_all_is_reparameterized():
    loss, found = loss_and_gradients(Reinforce(3), build(MLP_VAE), bits(5))
    wanted_loss, wanted = loss_and_gradients(ELBO(3), build(MLP_VAE), bits(5))
    assert loss == wanted_loss
    assert_same(found, wanted)


def test_a_global_latent_has_one_baseline_for_all_data():
    """To 1e-9 over all draws of c, K = 3: the gradient of the sum over c and all data, over N."""

    def model(x=None):
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.4))

        def forward(self, x):
            pyro.sample("c", dist.Bernoulli(logits=self.logit))

    built, x = build(Pair(model=model, guide=Guide, data=None)), torch.linspace(-1, 2, 4)
    q, prior = dist.Bernoulli(logits=built.guide.logit), dist.Bernoulli(torch.tensor(0.3))
    elbo = torch.zeros(())
    bit = BIT.to(x)
    for c in bit:
        inside = dist.Normal(c, 1.0).log_prob(x).sum() + prior.log_prob(c) - q.log_prob(c)
        elbo = elbo + q.log_prob(c).exp() * inside
    wanted = torch.autograd.grad(-elbo / 4, built.guide.logit)[0]
    mean, total = torch.zeros(()), 0.0
    for word in torch.cartesian_prod(bit, bit, bit):
        found = _given_global(Reinforce(3), built, {"x": x}, word)
        weight = q.log_prob(word).sum().exp().detach()
        mean, total = mean + weight * found, total + weight.item()
    assert total == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(mean, wanted, rtol=1e-9, atol=1e-9)


def _given_global(estimator, built, batch, word):
    from tests.estimators.every_draw import Given

    objective, _ = estimator.scored(Given(built, {"c": word.unsqueeze(-1)}), batch, {})
    return torch.autograd.grad(objective.losses["all"], built.guide.logit)[0]


def test_is_found_by_name():
    assert spelled(find("reinforce:k=4")) == "reinforce:particles=4"

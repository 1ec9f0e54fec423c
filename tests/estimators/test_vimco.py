"""VIMCO: unbiased for every draw, leave-one-out, per datum."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import math

import pytest
import torch

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import IWAE, VIMCO, Reinforce, find, spelled
from ppvae.estimators.vimco import without_own
from tests.estimators.discrete_toys import BIT, codes, components, layers, onehots, rows
from tests.estimators.every_draw import Given, Noise, assert_unbiased, every_draw, moments
from tests.toys import MLP_VAE, assert_same, bernoulli_toy, bits, gaussian_toy, loss_and_gradients, ones

pytestmark = pytest.mark.usefixtures("float64")
IWAE_BITS = {1: -0.899033, 2: -0.895254, 5: -0.893041}
SLOPES = {1: 0.0603155, 2: 0.0295595, 5: 0.0115989}


@pytest.mark.parametrize("particles", [1, 2, 5])
def test_is_exact_in_the_mean_on_the_bernoulli_toy(particles):
    """Over all 2^K draws: the bound and d bound / d logit to 1e-6 of the published figures, to 1e-9 of the
    sum."""
    found = assert_unbiased(VIMCO(particles), bernoulli_toy(), ones(1), z=BIT)
    assert found.bound.item() == pytest.approx(IWAE_BITS[particles], abs=1e-6)
    assert -found.gradient["guide.logit"].item() == pytest.approx(SLOPES[particles], abs=1e-7)


@pytest.mark.parametrize("order", ["downward", "upward", "mixed"])
def test_is_exact_in_the_mean_with_several_layers(order):
    """To 1e-9 over all 64 draws of three dependent bits, K = 2: model and guide."""
    assert_unbiased(VIMCO(2), layers(order), rows(1), z1=BIT, z2=BIT, z3=BIT)


def test_is_exact_in_the_mean_for_categories():
    """To 1e-9 over all 27 draws of a one-hot latent, K = 3, and over two data with K = 2."""
    assert_unbiased(VIMCO(3), codes("onehot"), rows(1), z=onehots(1, 3)[:, 0])
    assert_unbiased(VIMCO(2), bernoulli_toy(), {"x": torch.tensor([1.0, 0.0])}, z=BIT)


def test_reparameterized_latents_beside_discrete_ones_get_the_pathwise_gradient():
    """To 1e-9 over all draws of c and two points of the noise of z | c, K = 2."""
    noise = Noise(torch.tensor([-0.8, 1.1]))
    assert_unbiased(VIMCO(2), components(), rows(1, 1), c=onehots(1, 3)[:, 0], z=noise)


def test_is_iwae_where_all_is_reparameterized():
    """Exact to 1e-9 under one seed."""
    for built, batch in ((build(MLP_VAE), bits(7)), (gaussian_toy(0.2, 0.7), ones(4))):
        loss, found = loss_and_gradients(VIMCO(4), built, batch)
        wanted_loss, wanted = loss_and_gradients(IWAE(4), built, batch)
        assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-12)
        assert_same(found, wanted)


def test_one_particle_is_reinforce():
    """Exact to 1e-9 draw by draw: no others, no baseline."""
    built, batch = layers(), rows(2)
    for seed in range(5):
        loss, found = loss_and_gradients(VIMCO(1), built, batch, seed)
        wanted_loss, wanted = loss_and_gradients(Reinforce(1), built, batch, seed)
        assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-12)
        assert_same(found, wanted)


def test_the_baseline_of_a_particle_does_not_know_it():
    """Exact: moving log w_k moves every L_{-j} but L_{-k}; and L_{-k} is its definition."""
    log_w = 3 * torch.randn(4, 3)
    before = without_own(log_w)
    for k in range(4):
        moved = log_w.clone()
        moved[k] += 1.7
        change = (without_own(moved) - before).abs()
        assert (change[k] == 0).all()
        assert (change[[j for j in range(4) if j != k]] > 1e-3).all()
        others = torch.cat([log_w[:k], log_w[k + 1 :]])
        wanted = (others.exp().sum(0) + others.mean(0).exp()).log() - math.log(4)
        torch.testing.assert_close(before[k], wanted, rtol=1e-12, atol=1e-12)


def test_the_baseline_is_finite_for_extreme_weights():
    """Log-weights of -1e4, and some of -inf, in single precision; one that dominates costs no digits."""
    log_w = torch.tensor([[-1e4, -1e4, -math.inf], [0.0, -2e4, -3.0], [-5.0, -3e4, -math.inf]]).float()
    found = without_own(log_w)
    assert found.isfinite().all()
    # Particle 1 left out: log of (e^-1e4 + e^-5 + e^(-10005 / 2)) / 3.
    assert found[1, 0].item() == pytest.approx(-5.0 - math.log(3), abs=1e-5)
    assert found[1, 2] == 0.0


def test_a_batch_is_its_data_one_by_one():
    """Exact to 1e-9 with the draws given: weights are per datum, so the mean over data is that of single
    batches."""
    built, batch = codes("onehot"), rows(3)
    estimator = VIMCO(4)
    eye = torch.eye(3)
    drawn = eye[torch.randint(3, (4, 3))]

    def run(which):
        part = {"x": batch["x"][which]}
        objective, _ = estimator.scored(Given(built, {"z": drawn[:, which]}), part, {})
        grads = torch.autograd.grad(objective.losses["all"], list(built.parameters()))
        return objective.bound, grads

    bound, wanted = run([0, 1, 2])
    parts = [run([i]) for i in range(3)]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), bound, rtol=1e-9, atol=1e-9)
    for i, g in enumerate(wanted):
        torch.testing.assert_close(sum(p[1][i] for p in parts) / 3, g, rtol=1e-9, atol=1e-9)


def test_the_baseline_lowers_the_variance():
    """Exactly: K = 5 on the toy, against the bound's score function without one."""
    built, estimator = bernoulli_toy(), VIMCO(5)
    found = moments(estimator, built, ones(1), z=BIT).variance["guide.logit"].item()
    plain = 0.0
    for values in every_draw(5, 1, z=BIT):
        terms = Given(built, values).score(ones(1), 5, enumerated=())
        log_q = terms.sites["z"].log_q.sum()
        bound = terms.log_weight.logsumexp(0).squeeze() - math.log(5)
        (slope,) = torch.autograd.grad(bound + bound.detach() * log_q, built.guide.logit, retain_graph=True)
        plain += (log_q.exp() * (slope - SLOPES[5]) ** 2).item()
    assert found < 0.1 * plain


def test_beta_weighs_the_rate_and_not_the_bound():
    built, batch = bernoulli_toy(), ones(4)
    torch.manual_seed(0)
    plain = VIMCO(3).estimate(built, batch)
    torch.manual_seed(0)
    weighed = VIMCO(3, beta=0.5).estimate(built, batch)
    torch.testing.assert_close(weighed.bound, plain.bound)
    assert (weighed.losses["all"] - plain.losses["all"]).abs() > 1e-3
    torch.manual_seed(0)
    knob = VIMCO(3).estimate(built, batch, {"beta": torch.tensor(0.5)})
    torch.testing.assert_close(knob.losses["all"], weighed.losses["all"])


def test_refuses_what_is_summed_out_in_the_guide_and_is_found_by_name():
    with pytest.raises(PairError, match="which the guide enumerates"):
        VIMCO(3)(bernoulli_toy(how="enumerate"))(ones(2))
    assert spelled(find("vimco:k=3,beta=0.5")) == "vimco:particles=3,beta=0.5"

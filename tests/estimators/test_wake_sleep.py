"""Classic wake-sleep: the ELBO for the model, dreams for the guide."""
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import pyro.distributions as dist
import pytest
import torch

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import ELBO, RWS, AsPyro, WakeSleep, find
from ppvae.estimators.gradients import group_gradients
from tests.test_proof_pairs import make
from tests.toys import MLP_VAE, assert_same, bernoulli_model, bernoulli_toy, bits, loss_and_gradients, ones

pytestmark = pytest.mark.usefixtures("float64")


def learned(estimator, built, batch, seed: int = 0):
    torch.manual_seed(seed)
    objective = estimator.estimate(built, batch)
    named = {id(p): n for n, p in built.named_parameters()}
    return objective, {named[id(p)]: g for p, g in group_gradients(objective, built)}


@pytest.mark.parametrize("place", ["mlp", "mixture:PAIR", "sequence:PAIR"])
def test_the_model_learns_as_under_the_elbo(place):
    """Exact to 1e-9 with the same draws: bound and model gradient."""
    built, batch = (build(MLP_VAE), bits(7)) if place == "mlp" else make(place)[1:]
    wanted, theirs = learned(ELBO(particles=3), built, batch)
    found, ours = learned(WakeSleep(particles=3), built, batch)
    torch.testing.assert_close(found.bound, wanted.bound, rtol=1e-9, atol=1e-9)
    model = [name for name in theirs if name.startswith("model")]
    assert_same({n: ours[n] for n in model}, {n: theirs[n] for n in model})


def test_one_particle_is_reweighted_wake_sleep_that_only_sleeps():
    """Exact to 1e-9 under one seed: loss and every gradient."""
    built, batch = build(MLP_VAE), bits(6)
    loss, found = loss_and_gradients(WakeSleep(), built, batch)
    same, wanted = loss_and_gradients(RWS(particles=1, sleep=1.0), built, batch)
    assert loss.item() == pytest.approx(same.item(), rel=1e-9)
    assert_same(found, wanted)


def test_more_particles_are_averaged_and_dreams_are_not():
    """Exact to 1e-9: K = 3 draws weigh 1/3 each; the guide learns by one dream a row, by log q alone."""
    built, batch = build(MLP_VAE), bits(5)
    objective, found = learned(WakeSleep(particles=3), built, batch)
    torch.manual_seed(0)
    built.score(batch, 3)
    terms = built.dream(batch)
    loc, raw = built.guide.encoder(terms.inputs["x"]).chunk(2, -1)
    log_q = dist.Normal(loc, raw.exp()).to_event(1).log_prob(terms.sites["z"].value)
    guide = {n: p for n, p in built.named_parameters() if n.startswith("guide")}
    wanted = torch.autograd.grad(-log_q.mean(), list(guide.values()))
    assert_same({n: found[n] for n in guide}, dict(zip(guide, wanted, strict=True)))
    assert objective.metrics["sleep"].item() == pytest.approx(-log_q.mean().item(), rel=1e-9)


def test_refuses_what_cannot_be_dreamed():
    built = bernoulli_toy()
    with pytest.raises(PairError, match="SVI does not say which of the model's arguments are observed"):
        AsPyro(WakeSleep()).loss(bernoulli_model, built.guide, torch.ones(6))
    _, regression, batch = make("regression:PAIR")
    with pytest.raises(PairError, match="shared by all data"):
        WakeSleep().estimate(regression, batch)
    with pytest.raises(PairError, match="the guide enumerates 'z'"):
        WakeSleep().estimate(bernoulli_toy(how="enumerate"), ones(3))


def test_found_by_name():
    assert find("wake_sleep:k=2").particles == 2

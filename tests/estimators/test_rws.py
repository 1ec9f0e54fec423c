"""Reweighted wake-sleep: the laws of its three gradients."""
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOptionalSubscript=false

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ReweightedWakeSleep
from torch import nn

from ppvae.build import build
from ppvae.drawing import Drawn
from ppvae.errors import PairError
from ppvae.estimators import IWAE, RWS, AsPyro, find
from ppvae.estimators.gradients import group_gradients
from ppvae.pair import Pair
from tests.test_proof_pairs import make
from tests.toys import (
    MLP_VAE,
    BernoulliGuide,
    assert_same,
    bernoulli_model,
    bernoulli_toy,
    bits,
    gradients,
    loss_and_gradients,
    ones,
    pyro_loss_and_gradients,
)

pytestmark = pytest.mark.usefixtures("float64")
POSTERIOR_SLOPE = 0.0585366  # d E_p(z|x)[log q(z)] / d logit of the Bernoulli toy


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def part(found: dict, root: str) -> dict:
    return {name: value for name, value in found.items() if name.startswith(root)}


class Given:
    """A built pair whose draws of z are given."""

    def __init__(self, built, z):
        self.built, self.z, self.enumerated = built, z, built.enumerated

    def score(self, batch, particles=1, *, enumerated=None, draw=None, leaves=False):
        return self.built.score(
            batch, particles, leaves=leaves, draw=lambda *_: Drawn(self.z.clone(), "score")
        )


# Wake: the model.


@pytest.mark.parametrize("place", ["mlp", "mixture:PAIR", "sequence:PAIR"])
def test_the_model_learns_as_under_iwae(place):
    """Exact to 1e-9 with the same draws: bound and model gradient; also with a latent summed out in the
    model, with inner plates and masks."""
    if place == "mlp":
        built, batch = build(MLP_VAE), bits(7)
    else:
        _, built, batch = make(place)
        built.double()
        batch = {n: v.double() if v.is_floating_point() else v for n, v in batch.items()}
    _, wanted = loss_and_gradients(IWAE(particles=4), built, batch)
    _, found = loss_and_gradients(RWS(particles=4), built, batch)
    assert part(found, "model")
    assert_same(part(found, "model"), part(wanted, "model"))
    torch.manual_seed(0)
    bound = IWAE(particles=4).estimate(built, batch).bound
    torch.manual_seed(0)
    close(RWS(particles=4).estimate(built, batch).bound, bound.detach())


# Wake: the guide.


def exact_wake_slope(particles: int) -> float:
    """E[sum_k v_k d log q(z_k) / d logit] on the Bernoulli toy, through the estimator: row n has n ones among
    its K draws, and weighs Binomial(n; K, .6)."""
    built = bernoulli_toy()
    rows = particles + 1
    built.guide.logit = nn.Parameter(torch.logit(torch.full((rows,), 0.6)))
    z = (torch.arange(particles).unsqueeze(1) < torch.arange(rows)).to(torch.get_default_dtype())
    loss = RWS(particles=particles).scored(Given(built, z), ones(rows), {})[0].losses["all"]
    slopes = -torch.autograd.grad(loss, built.guide.logit)[0] * rows
    weight = dist.Binomial(particles, torch.tensor(0.6)).log_prob(torch.arange(rows * 1.0)).exp()
    return float((weight * slopes).sum())


def test_the_guide_climbs_towards_the_posterior():
    """Exact: at K = 2 the direct sum over four pairs of draws, to 1e-9; as K grows .0585366 with an error of
    O(1/K), to 2e-7 once the 1/K term is removed."""
    q, weight = 0.6, (0.7 * 0.2 / 0.4, 0.3 * 0.9 / 0.6)  # w at z = 0, 1
    wanted = 0.0
    for a in (0, 1):
        for b in (0, 1):
            prob = (q if a else 1 - q) * (q if b else 1 - q)
            share = weight[a] / (weight[a] + weight[b])
            wanted += prob * (share * (a - q) + (1 - share) * (b - q))
    assert exact_wake_slope(2) == pytest.approx(wanted, abs=1e-9)
    errors = {k: POSTERIOR_SLOPE - exact_wake_slope(k) for k in (50, 500, 1000)}
    assert errors[50] / errors[500] == pytest.approx(10, rel=0.05)
    assert 2 * exact_wake_slope(1000) - exact_wake_slope(500) == pytest.approx(POSTERIOR_SLOPE, abs=2e-7)


def test_continuous_draws_are_not_differentiated():
    """Exact to 1e-9: the guide's gradient is that of -sum_k v_k log q at fixed draws."""
    built, batch = build(MLP_VAE), bits(5)
    _, found = loss_and_gradients(RWS(particles=3), built, batch)
    torch.manual_seed(0)
    with torch.no_grad():
        terms = built.score(batch, 3)
    z, weight = terms.sites["z"].value, terms.log_weight.softmax(0)
    loc, raw = built.guide.encoder(batch["x"]).chunk(2, -1)
    loss = -(weight * dist.Normal(loc, raw.exp()).to_event(1).log_prob(z)).sum(0).mean()
    loss.backward()
    wanted = part(gradients(built), "guide")
    assert_same(part(found, "guide"), wanted)


def test_shared_parameters_get_both_gradients():
    """Exact to 1e-9: one net in model and guide learns by the sum of what two copies learn."""

    class Model(nn.Module):
        def __init__(self, shared=None):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.7))

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(self.weight, 1.0))
                pyro.sample("x", dist.Normal(self.weight * z, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model, shared: bool):
            super().__init__()
            self.weight = model.weight if shared else nn.Parameter(torch.tensor(0.7))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.weight * x, 1.0))

    batch = {"x": torch.tensor([0.3, -1.2, 2.0])}
    for estimator in (RWS(particles=4), RWS(particles=4, sleep=0.5)):
        pair = Pair(model=Model, guide=Guide, data=None)
        _, apart = loss_and_gradients(estimator, build(pair, shared=False), batch)
        _, one = loss_and_gradients(estimator, build(pair, shared=True), batch)
        close(one["model.weight"], apart["model.weight"] + apart["guide.weight"])


class RowGuide(nn.Module):
    """q(z = 1 | x) = .6 or .3: a logit for each value of x."""

    def __init__(self, model=None):
        super().__init__()
        self.logits = nn.Parameter(torch.logit(torch.tensor([0.3, 0.6])))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            logits = torch.where(x > 0, self.logits[1], self.logits[0])
            pyro.sample("z", dist.Bernoulli(logits=logits))


def test_weights_are_per_datum_and_not_joint_over_the_batch():
    """Exact to 1e-9: a batch of two learns the mean of what each learns alone. With one datum Pyro's
    ReweightedWakeSleep agrees; with two, its weights are joint, and it differs."""
    built = bernoulli_toy(RowGuide)
    x, z = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])

    def learned(rows):
        objective, _ = RWS(particles=3).scored(Given(built, z[:, rows]), {"x": x[rows]}, {})
        return dict(group_gradients(objective, built))[built.guide.logits]

    alone = torch.stack([learned(slice(0, 1)), learned(slice(1, 2))])
    close(learned(slice(0, 2)), alone.mean(0))

    def theirs(rows):
        loss = ReweightedWakeSleep(
            num_particles=3, insomnia=1.0, vectorize_particles=True, max_plate_nesting=1
        )
        batch = {"x": torch.tensor([1.0, 0.0])[:rows]}
        values, wanted = pyro_loss_and_gradients(loss, built, batch, seed=5)
        mine, found = loss_and_gradients(RWS(particles=3), built, batch, seed=5)
        return values, wanted["guide.logits"] / rows, mine, found["guide.logits"]

    _, wanted, _, found = theirs(1)
    close(found, wanted)
    _, wanted, _, found = theirs(2)
    assert (found - wanted).abs().max() > 1e-3


# Sleep.


def test_sleep_climbs_the_log_density_of_dreams(monkeypatch):
    """Exact to 1e-9: with all 100 dreams of a grid of u_z, u_x the guide's gradient is that of
    E_p(x,z) log q(z | x) by the direct sum, whatever the data are."""
    built = bernoulli_toy(RowGuide)
    total = torch.zeros(())
    for z in (0.0, 1.0):
        for x in (0, 1):
            p_x = 0.9 if z else 0.2
            p = (0.3 if z else 0.7) * (p_x if x else 1 - p_x)
            total = total + p * dist.Bernoulli(logits=built.guide.logits[x]).log_prob(torch.tensor(z))
    (wanted,) = torch.autograd.grad(-total, built.guide.logits)
    grid = (torch.arange(10) + 0.5) / 10
    u = [g.reshape(-1) for g in torch.meshgrid(grid, grid, indexing="ij")]
    draws = iter([None, *u])  # the guide's own draws of the wake phase come first
    plain = torch.bernoulli

    def bernoulli(probs):
        numbers = next(draws)
        return plain(probs) if numbers is None else (numbers < probs).to(probs)

    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    objective = RWS(particles=1, sleep=1.0).estimate(built, ones(100))
    close(torch.autograd.grad(objective.losses["all"], built.guide.logits)[0], wanted)
    close(objective.metrics["sleep"], -total.detach())


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_wake_and_sleep_mix(share):
    """Exact to 1e-9 under one seed: the guide's gradient is linear in `sleep`, the model's knows nothing of
    it; the knob wins over the argument."""
    built, batch = build(MLP_VAE), bits(6)

    def learned(sleep, knobs=None):
        torch.manual_seed(0)
        objective = RWS(particles=3, sleep=sleep).estimate(built, batch, knobs)
        named = {id(p): n for n, p in built.named_parameters()}
        return {named[id(p)]: g for p, g in group_gradients(objective, built)}

    wake, sleep, mixed = learned(0.0), learned(1.0), learned(share)
    assert_same(mixed, {n: (1 - share) * wake[n] + share * sleep[n] for n in wake})
    assert_same(part(mixed, "model"), part(wake, "model"))
    assert_same(learned(0.0, {"sleep": torch.tensor(share)}), mixed)


# What it can be used with.


def test_wake_wake_serves_a_stock_svi():
    """Exact to 1e-9: ours times B; dreams are refused there."""
    built = bernoulli_toy()
    loss, found = loss_and_gradients(RWS(particles=4), built, ones(6))
    torch.manual_seed(0)
    built.zero_grad()
    value = AsPyro(RWS(particles=4)).loss_and_grads(bernoulli_model, built.guide, torch.ones(6))
    assert value == pytest.approx(6 * loss.item(), rel=1e-9)
    close(built.guide.logit.grad, 6 * found["guide.logit"])
    with pytest.raises(PairError, match="SVI does not say which of the model's arguments are observed"):
        AsPyro(RWS(sleep=0.5)).loss(bernoulli_model, built.guide, torch.ones(6))


def test_refuses_what_it_cannot_weigh():
    for options, why in (
        ({"particles": 1}, "one draw has no weights"),
        ({"sleep": 1.5}, "from 0 to 1"),
        ({"sleep": -0.1}, "from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=why):
            RWS(**options)
    _, built, batch = make("regression:PAIR")
    with pytest.raises(PairError, match="global latents"):
        RWS().estimate(built, batch)
    with pytest.raises(PairError, match="'z', which the guide enumerates"):
        RWS().estimate(bernoulli_toy(how="enumerate"), ones(3))
    with pytest.raises(PairError, match="relaxation or a point"):
        RWS(sites={"z": "gumbel"}).estimate(bernoulli_toy(), ones(3))


def test_found_by_name():
    assert find("rws:k=8,sleep=0.5").sleep == 0.5
    assert math.isfinite(RWS().estimate(bernoulli_toy(BernoulliGuide), ones(3)).bound.sum().item())

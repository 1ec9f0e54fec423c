"""What ARM and DisARM share: antithetic pairs, layer by layer.

The laws are exact: the uniform numbers are the midpoints of a grid on whose lines all probabilities lie. The
gradients are piecewise constant or linear in each of them, so that the mean over the grid is the integral.
"""
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportCallIssue=false

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import ARM, AsPyro, DisARM, find
from ppvae.pair import Pair
from tests.test_estimators import waits
from tests.toys import (
    MLP_VAE,
    BernoulliGuide,
    assert_same,
    bernoulli_model,
    bernoulli_toy,
    bits,
    loss_and_gradients,
    ones,
    z_score,
)

pytestmark = pytest.mark.usefixtures("float64")
both = pytest.mark.parametrize("estimator", [ARM, DisARM])


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def midpoints(cells: int) -> torch.Tensor:
    return (torch.arange(cells) + 0.5) / cells


def uniforms(monkeypatch, *numbers: torch.Tensor) -> None:
    """The uniform numbers of the first, second, ... Bernoulli layer."""
    given = iter(numbers)

    def rand_like(like):
        return next(given).expand(like.shape).clone()

    monkeypatch.setattr(torch, "rand_like", rand_like)


def logit(*probs: float) -> torch.Tensor:
    return torch.logit(torch.tensor(probs))


# Two layers, the second given the first.


class TwoLayers(nn.Module):
    """p(b1) p(b2 | b1) p(x | b1, b2), x a reading of three states and a half."""

    def __init__(self):
        super().__init__()
        self.prior = nn.Parameter(torch.tensor(-0.4))
        self.second = nn.Parameter(torch.tensor([0.3, -1.1]))
        self.loc = nn.Parameter(torch.tensor([[0.2, -1.0], [1.5, 0.4]]))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            b1 = pyro.sample("b1", dist.Bernoulli(logits=self.prior))
            b2 = pyro.sample("b2", dist.Bernoulli(logits=torch.where(b1 > 0, *self.second.flip(0))))
            rows = torch.where(b1 > 0, self.loc[1, 0], self.loc[0, 0])
            loc = torch.where(b2 > 0, torch.where(b1 > 0, self.loc[1, 1], self.loc[0, 1]), rows)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


class TwoLayerGuide(nn.Module):
    """q(b1 = 1) = .6, q(b2 = 1 | b1) = .25, .8."""

    def __init__(self, model=None):
        super().__init__()
        self.first = nn.Parameter(logit(0.6)[0])
        self.second = nn.Parameter(logit(0.25, 0.8))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            b1 = pyro.sample("b1", dist.Bernoulli(logits=self.first))
            pyro.sample("b2", dist.Bernoulli(logits=torch.where(b1 > 0, self.second[1], self.second[0])))


def two_layer_elbo(built, x: float) -> torch.Tensor:
    """The direct sum over four states."""
    model, guide = built.model, built.guide
    total = torch.zeros(())
    for b1, b2 in itertools.product((0, 1), repeat=2):
        one, two = torch.tensor(float(b1)), torch.tensor(float(b2))
        log_q = dist.Bernoulli(logits=guide.first).log_prob(one)
        log_q = log_q + dist.Bernoulli(logits=guide.second[b1]).log_prob(two)
        log_p = dist.Bernoulli(logits=model.prior).log_prob(one)
        log_p = log_p + dist.Bernoulli(logits=model.second[b1]).log_prob(two)
        log_p = log_p + dist.Normal(model.loc[b1, b2], 1.0).log_prob(torch.tensor(x))
        total = total + log_q.exp() * (log_p - log_q)
    return total


def two_layer_grid(monkeypatch, cells: int = 20) -> int:
    """Every combination of three uniform numbers, one a row: b1's, and b2's of either draw of b1's pair."""
    one, two, three = (g.reshape(-1) for g in torch.meshgrid(*[midpoints(cells)] * 3, indexing="ij"))
    rows = len(one)
    uniforms(monkeypatch, one.expand(4, rows), torch.stack([two, three, two, three]))
    return rows


@both
def test_two_layers_equal_the_sum_over_all_states(estimator, monkeypatch):
    """Exact to 1e-9: bound, both layers' logits and the model's parameters, by 8,000 rows of a grid."""
    built = build(Pair(model=TwoLayers, guide=TwoLayerGuide, data=None))
    elbo = two_layer_elbo(built, 0.7)
    wanted = torch.autograd.grad(-elbo, list(built.parameters()))
    made = estimator()
    made.estimate(built, {"x": torch.full((8000,), 0.7)})  # the layers are known from here on
    rows = two_layer_grid(monkeypatch)
    objective = made.estimate(built, {"x": torch.full((rows,), 0.7)})
    close(objective.bound.mean(), elbo)
    close(objective.losses["all"], -elbo)
    found = torch.autograd.grad(objective.losses["all"], list(built.parameters()))
    for f, w in zip(found, wanted, strict=True):
        close(f, w)


@both
def test_who_shares_what(estimator):
    """Pairs of layer t: before it one value, at it antithetic, after it two draws; z beside them likewise."""

    def model(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            for name in ("z0", "z1", "z2"):
                pyro.sample(name, dist.Normal(0.0, 1.0))
            for name in ("b0", "b1"):
                pyro.sample(name, dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z0", dist.Normal(0.0, 1.0))
            pyro.sample("b0", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("z1", dist.Normal(0.0, 1.0))
            pyro.sample("b1", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("z2", dist.Normal(0.0, 1.0))

    built = build(Pair(model=model, guide=guide, data=None))
    _, terms = estimator(6).scored(built, ones(50), {})
    assert terms.particles == 12
    pairs = {name: terms.sites[name].value.reshape(2, 2, 3, 50) for name in ("z0", "b0", "z1", "b1", "z2")}
    for layer, shared in ((0, {"z0"}), (1, {"z0", "b0", "z1"})):
        for name, value in pairs.items():
            first, second = value[layer]
            if name == f"b{layer}":
                assert (first != second).all()  # at probability 1/2 the draws of a pair always differ
            elif name in shared:
                close(first, second, 0.0)
            else:
                assert 0.2 < (first != second).float().mean() <= 1
                assert (first == second).any() == (name[0] == "b")


# One layer of several bits, under to_event, in a plate, shared by all data.

PRIOR, CODE = [0.3, 0.6, 0.5], [0.6, 0.25, 0.9]


def tangled(b: torch.Tensor) -> torch.Tensor:
    """Of three bits along the last dimension, no sum of parts."""
    return 1.5 * b[..., 0] * b[..., 1] - b[..., 1] * b[..., 2] + 0.7 * b[..., 0] * b[..., 2] + 0.2 * b[..., 0]


def three_bit_elbo(logits: torch.Tensor, x: float) -> torch.Tensor:
    total = torch.zeros(())
    for state in itertools.product((0.0, 1.0), repeat=3):
        b = torch.tensor(state)
        log_q = dist.Bernoulli(logits=logits).log_prob(b).sum()
        log_p = dist.Bernoulli(torch.tensor(PRIOR)).log_prob(b).sum()
        log_p = log_p + dist.Normal(tangled(b), 1.0).log_prob(torch.tensor(x))
        total = total + log_q.exp() * (log_p - log_q)
    return total


class ThreeBits(nn.Module):
    """One latent of three bits, or (`words`) three bits in a plate left of the data."""

    def __init__(self, words: bool = False):
        super().__init__()
        self.words = words

    def forward(self, x=None, *, n=None):
        prior = torch.tensor(PRIOR)
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            if self.words:
                with pyro.plate("words", 3, dim=-2):
                    b = pyro.sample("b", dist.Bernoulli(prior.unsqueeze(-1)))
                loc = tangled(b.movedim(-2, -1))
                loc = loc.unsqueeze(-2) if loc.dim() > 1 else loc  # (K, 1, B), beside the plate of words
            else:
                loc = tangled(pyro.sample("b", dist.Bernoulli(prior).to_event(1)))
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


class ThreeBitGuide(nn.Module):
    def __init__(self, model: ThreeBits):
        super().__init__()
        self.words, self.logits = model.words, nn.Parameter(logit(*CODE))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            if self.words:
                with pyro.plate("words", 3, dim=-2):
                    pyro.sample("b", dist.Bernoulli(logits=self.logits.unsqueeze(-1)))
            else:
                pyro.sample("b", dist.Bernoulli(logits=self.logits).to_event(1))


@both
@pytest.mark.parametrize("words", [False, True], ids=["event", "plate"])
def test_a_vector_of_bits_equals_the_sum_over_all_states(estimator, words, monkeypatch):
    """Exact to 1e-9, by 8,000 rows of a grid: three bits whose likelihood is no sum of parts."""
    pair = Pair(model=ThreeBits, guide=ThreeBitGuide, data=None, plates=2 if words else 1)
    built = build(pair, words=words)
    elbo = three_bit_elbo(built.guide.logits, 0.7)
    (wanted,) = torch.autograd.grad(-elbo, built.guide.logits)
    made, batch = estimator(), {"x": torch.full((8000,), 0.7)}
    made.estimate(built, batch)
    grid = torch.stack(torch.meshgrid(*[midpoints(20)] * 3, indexing="ij"), -1).reshape(-1, 3)
    uniforms(monkeypatch, grid.T if words else grid)
    objective = made.estimate(built, batch)
    close(objective.bound.mean(), elbo)
    close(torch.autograd.grad(objective.losses["all"], built.guide.logits)[0], wanted)


@both
def test_a_bit_that_all_data_share(estimator, monkeypatch):
    """Exact to 1e-9: c ~ Bernoulli(.3) once for N = 12 data in batches of 4; 20 pairs are the grid, and the
    mean over the three batches is the gradient by enumerating c over all data."""
    x = torch.linspace(-1, 2, 12)

    def model(x=None):
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.logit = nn.Parameter(logit(0.6)[0])

        def forward(self, x):
            pyro.sample("c", dist.Bernoulli(logits=self.logit))

    built = build(Pair(model=model, guide=Guide, data=None))
    built.num_data = 12
    q, elbo = dist.Bernoulli(logits=built.guide.logit), torch.zeros(())
    for c in (torch.tensor(0.0), torch.tensor(1.0)):
        inside = dist.Normal(c, 1.0).log_prob(x).sum() + dist.Bernoulli(0.3).log_prob(c) - q.log_prob(c)
        elbo = elbo + q.log_prob(c).exp() * inside
    (truth,) = torch.autograd.grad(-elbo / 12, built.guide.logit)
    made, found, bound = estimator(40), [], []
    made.estimate(built, {"x": x[:4]})
    grid = midpoints(20).reshape(20, 1)
    uniforms(monkeypatch, *[torch.cat([grid, grid])] * 3)
    for rows in torch.arange(12).split(4):
        objective = made.estimate(built, {"x": x[rows]})
        found.append(torch.autograd.grad(objective.losses["all"], built.guide.logit)[0])
        bound.append(objective.bound.mean())
    close(torch.stack(found).mean(), truth)
    close(torch.stack(bound).mean(), elbo.detach() / 12)


@both
def test_with_a_latent_that_the_model_sums_out(estimator, monkeypatch):
    """Exact to 1e-9: x | b, c with c enumerated in the model alone."""

    def model(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            b = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            c = pyro.sample("c", dist.Bernoulli(0.2 + 0.5 * b))
            pyro.sample("x", dist.Bernoulli(0.1 + 0.5 * b + 0.3 * c), obs=x)

    pair = Pair(model=model, guide=BernoulliGuide, data=None, discrete={"c": "enumerate"})
    built = build(pair)
    q, elbo = dist.Bernoulli(logits=built.guide.logit), torch.zeros(())
    for b in (0.0, 1.0):
        likelihood = sum((0.2 + 0.5 * b if c else 0.8 - 0.5 * b) * (0.1 + 0.5 * b + 0.3 * c) for c in (0, 1))
        log_q = q.log_prob(torch.tensor(b))
        elbo = elbo + log_q.exp() * (math.log(likelihood) + math.log(0.3 if b else 0.7) - log_q)
    made = estimator()
    made.estimate(built, ones(20))
    uniforms(monkeypatch, midpoints(20))
    objective = made.estimate(built, ones(20))
    close(objective.bound.mean(), elbo.detach())
    found = torch.autograd.grad(objective.losses["all"], built.guide.logit)[0]
    close(found, torch.autograd.grad(-elbo, built.guide.logit)[0])


# Reparameterized latents beside the bits.


class Mixed(nn.Module):
    """z ~ N(0, 1), b ~ Bernoulli(.4), y ~ N(b, 1), x ~ N(z b + s y, 1)."""

    def __init__(self, rows: int):
        super().__init__()
        self.slope = nn.Parameter(torch.full((rows,), 0.8))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.4)))
            y = pyro.sample("y", dist.Normal(b, 1.0))
            pyro.sample("x", dist.Normal(z * b + self.slope * y, 1.0), obs=x)


class MixedGuide(nn.Module):
    """q(z) q(b | z) q(y | b, z): six parameters a datum, so that a row is a draw of the gradient."""

    def __init__(self, model: Mixed):
        super().__init__()
        start = torch.tensor([0.3, -0.2, 0.4, 0.9, -0.5, 0.6])
        self.weights = nn.Parameter(start.repeat(len(model.slope), 1))

    def forward(self, x, *, n=None):
        loc, raw, bias, weight, shift, slope = self.weights.unbind(-1)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(loc, raw.exp()))
            b = pyro.sample("b", dist.Bernoulli(logits=bias + weight * z))
            pyro.sample("y", dist.Normal(shift + slope * b + 0.5 * z, raw.exp()))


def mixed_elbo(slope, weights, x: float, nodes: int = 40):
    """By quadrature over both normal latents and the sum over the bit."""
    import numpy as np

    points, mass = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    mass = mass / mass.sum()
    loc, raw, bias, weight, shift, tilt = weights
    e1, e2 = points.reshape(-1, 1), points.reshape(1, -1)
    z = loc + raw.exp() * e1
    total = torch.zeros(())
    for state in (0.0, 1.0):
        b = torch.full_like(z, state)
        mean = shift + tilt * b + 0.5 * z
        y = mean + raw.exp() * e2
        q_b = dist.Bernoulli(logits=bias + weight * z).log_prob(b)
        log_w = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(loc, raw.exp()).log_prob(z) - q_b
        log_w = log_w + dist.Bernoulli(torch.tensor(0.4)).log_prob(b)
        log_w = log_w + dist.Normal(b, 1.0).log_prob(y) - dist.Normal(mean, raw.exp()).log_prob(y)
        log_w = log_w + dist.Normal(z * b + slope * y, 1.0).log_prob(torch.tensor(x))
        total = total + (mass.reshape(-1, 1) * mass.reshape(1, -1) * q_b.exp() * log_w).sum()
    return total


@both
def test_reparameterized_latents_before_and_after_the_bit(estimator):
    """40,000 rows, seed 0: every gradient, of guide and model, within 3 standard errors of quadrature."""
    rows = 40_000
    built = build(Pair(model=Mixed, guide=MixedGuide, data=None), rows=rows)
    slope, weights = built.model.slope[:1].detach(), built.guide.weights[0].detach()
    slope.requires_grad_()
    weights.requires_grad_()
    elbo = mixed_elbo(slope[0], weights, 1.2)
    truth = torch.autograd.grad(-elbo, [slope, weights])
    torch.manual_seed(0)
    objective = estimator().estimate(built, {"x": torch.full((rows,), 1.2)})
    loss = objective.losses["all"]
    found = torch.autograd.grad(loss * rows, [built.model.slope, built.guide.weights])
    assert z_score(objective.bound, elbo.detach()).abs() < 3
    assert z_score(found[0], truth[0]).abs() < 3
    assert z_score(found[1], truth[1]).abs().max() < 3


# What it costs, what it needs.


@both
def test_two_hundred_bits_take_one_pass(estimator):
    calls = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(200, 6)

        def forward(self, x=None, *, n=None):
            calls.append("model")
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                b = pyro.sample("b", dist.Bernoulli(torch.full((200,), 0.5)).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.out(b)).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.net = nn.Linear(6, 200)

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("b", dist.Bernoulli(logits=self.net(x)).to_event(1))

    built, made = build(Pair(model=Model, guide=Guide, data=None)), estimator(4)
    made.estimate(built, bits(5))
    calls.clear()
    _, found = loss_and_gradients(made, built, bits(5))
    assert calls == ["model"]
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in found.values())


@both
def test_looking_for_the_layers_takes_no_random_number(estimator):
    built = build(Pair(model=TwoLayers, guide=TwoLayerGuide, data=None))
    made = estimator()
    loss, found = loss_and_gradients(made, built, ones(5))
    again, same = loss_and_gradients(made, built, ones(5))
    close(loss, again, 0.0)
    assert_same(found, same, tolerance=0.0)


@both
def test_no_step_waits_for_the_device(estimator):
    """Once the layers are known; two layers, a normal latent beside a bit."""
    pairs = [
        Pair(model=TwoLayers, guide=TwoLayerGuide, data=None),
        Pair(model=Mixed, guide=MixedGuide, data=None),
    ]
    for pair, sizes in zip(pairs, ({}, {"rows": 5}), strict=True):
        built, made = build(pair, **sizes), estimator(4)
        made.estimate(built, ones(5))
        knobs = {"beta": torch.tensor(0.5)}
        assert (
            waits(lambda b=built, m=made, k=knobs: m.estimate(b, ones(5), k).losses["all"].backward()) == []
        )


@both
def test_equals_itself_under_svi(estimator):
    """Exact to 1e-9: as the loss of a stock SVI it is ours times B, value and gradient."""
    built = bernoulli_toy()
    loss, found = loss_and_gradients(estimator(4), built, ones(6))
    torch.manual_seed(0)
    built.zero_grad()
    value = AsPyro(estimator(4)).loss_and_grads(bernoulli_model, built.guide, torch.ones(6))
    assert value == pytest.approx(6 * loss.item(), rel=1e-9)
    close(built.guide.logit.grad, 6 * found["guide.logit"])


@both
def test_beta_weighs_the_rate_alone(estimator, monkeypatch):
    """Exact to 1e-9: d/dlogit of E log p(x | z) - beta KL by the direct sum; the bound keeps beta = 1."""
    built = bernoulli_toy()
    q = torch.sigmoid(built.guide.logit)
    rate = q * (q / 0.3).log() + (1 - q) * ((1 - q) / 0.7).log()
    optimized = q * math.log(0.9) + (1 - q) * math.log(0.2) - 2.5 * rate
    (wanted,) = torch.autograd.grad(-optimized, built.guide.logit)
    made = estimator()
    made.estimate(built, ones(20))
    uniforms(monkeypatch, *[midpoints(20)] * 2)
    for objective in (
        made.estimate(built, ones(20), {"beta": torch.tensor(2.5)}),
        estimator(beta=2.5).objective(made.scored(built, ones(20), {})[1], {}),
    ):
        close(torch.autograd.grad(objective.losses["all"], built.guide.logit)[0], wanted)
        assert objective.bound.mean().item() == pytest.approx(-0.899033, abs=1e-6)


@both
def test_evaluates_without_gradients(estimator):
    built = bernoulli_toy()
    with torch.no_grad():
        bound = estimator().estimate(built, ones(10)).bound
    assert bound.shape == (10,)
    assert not bound.requires_grad


class CategoricalGuide(nn.Module):
    def __init__(self, model=None):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Categorical(logits=self.logits))


def categorical_model(x=None, *, n=None):
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(z.to(torch.get_default_dtype()), 1.0), obs=x)


@both
def test_refuses_what_has_no_pairs(estimator):
    name = estimator.__name__
    categorical = build(Pair(model=categorical_model, guide=CategoricalGuide, data=None))
    with pytest.raises(PairError, match=f"{name} draws Bernoulli latents, but 'z' is drawn from a Categ"):
        estimator().estimate(categorical, ones(4))
    with pytest.raises(PairError, match="the guide draws none"):
        estimator().estimate(build(MLP_VAE), bits(4))
    with pytest.raises(PairError, match="leave out z=score"):
        estimator(sites={"z": "score"}).estimate(bernoulli_toy(), ones(4))
    alone = build(Pair(model=bernoulli_model, guide=BernoulliGuide, data=None, vectorize=False))
    with pytest.raises(PairError, match="one after another"):
        estimator().estimate(alone, ones(4))
    with pytest.raises(ValueError, match="even number"):
        estimator(3)


@both
def test_refuses_a_guide_that_draws_other_bits_each_time(estimator):
    class Changing(BernoulliGuide):
        calls = 0

        def forward(self, x, *, n=None):
            Changing.calls += 1
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Bernoulli(logits=self.logit))
                for i in range(Changing.calls):
                    pyro.sample(f"a{i}", dist.Bernoulli(torch.tensor(0.5)), infer={"is_auxiliary": True})

    with pytest.raises(PairError, match="let the guide draw the same latents each time"):
        estimator().estimate(bernoulli_toy(Changing), ones(4))


@both
def test_refuses_a_guide_that_enumerates(estimator):
    """Its dimension lies left of the particles; with as many states as particles none would see the
    difference."""

    def model(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
            z = pyro.sample("z", dist.Normal(c, 1.0))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(b + z, 1.0), obs=x)

    def guide(x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))

    built = build(Pair(model=model, guide=guide, data=None, discrete={"c": "enumerate"}))
    with pytest.raises(PairError, match="'c', which the guide enumerates: leave it out of the guide"):
        estimator().estimate(built, ones(4))


def test_found_by_name():
    assert isinstance(find("disarm:k=8"), DisARM)
    assert find("arm:k=8,beta=0.5").beta == 0.5

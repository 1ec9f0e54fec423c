"""Every joint state of the discrete latents, exactly, against sums of Pyro's own traces."""
# pyright: reportTypedDictNotRequiredAccess=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError, UsageError
from ppvae.estimators import ELBO, Enumeration, find, spelled
from ppvae.estimators.enumeration import probability
from ppvae.estimators.layout import Laid
from ppvae.pair import Pair
from tests.estimators.discrete_toys import (
    ComponentLast,
    Components,
    by_sum,
    codes,
    components,
    layers,
    onehots,
    product,
    rows,
    spread,
)
from tests.test_estimators import waits
from tests.toys import (
    BernoulliGuide,
    assert_same,
    bernoulli_toy,
    gaussian_toy,
    gradients,
    loss_and_gradients,
    ones,
    z_score,
)

pytestmark = pytest.mark.usefixtures("float64")


def bit():
    return torch.tensor([0.0, 1.0])


def assert_exact(built, batch, tolerance=1e-9, estimator=None, **supports):
    """Bound, loss, metrics and every gradient, to `tolerance`."""
    estimator = estimator or Enumeration()
    elbo, evidence = by_sum(built, batch, **supports)
    built.zero_grad(set_to_none=True)
    (-elbo.mean()).backward()
    wanted = gradients(built)
    objective = estimator.estimate(built, batch)
    torch.testing.assert_close(objective.bound, elbo.detach(), rtol=tolerance, atol=tolerance)
    found = objective.metrics
    assert found["elbo"].item() == pytest.approx(elbo.mean().item(), abs=tolerance)
    assert (-found["distortion"] - found["rate"]).item() == pytest.approx(elbo.mean().item(), abs=tolerance)
    assert found["log_evidence"].item() == pytest.approx(evidence.mean().item(), abs=tolerance)
    loss, slopes = loss_and_gradients(estimator, built, batch)
    assert loss.item() == pytest.approx(-elbo.mean().item(), abs=tolerance)
    assert_same(slopes, wanted, tolerance=tolerance)
    assert sum(g.abs().sum() for g in wanted.values()) > 0.01


def test_the_bernoulli_toy():
    """To 1e-6 of the known figures: ELBO, evidence, slope."""
    built = bernoulli_toy()
    assert_exact(built, {"x": torch.tensor([1.0, 0.0, 1.0])}, z=bit())
    loss, found = loss_and_gradients(Enumeration(), built, ones(1))
    assert -loss.item() == pytest.approx(-0.899033, abs=1e-6)
    assert -found["guide.logit"].item() == pytest.approx(0.0603155, abs=1e-7)
    evidence = Enumeration().estimate(built, ones(1)).metrics["log_evidence"]
    assert evidence.item() == pytest.approx(-0.891598, abs=1e-6)


@pytest.mark.parametrize("order", ["downward", "upward", "mixed"])
def test_dependent_layers(order):
    """To 1e-9: three bits, each given those before it, in three orders of the guide; several sites are a
    product."""
    assert_exact(layers(order), rows(), z1=bit(), z2=bit(), z3=bit())


@pytest.mark.parametrize(
    ("kind", "support"),
    [
        ("bits", lambda: product(6)),
        ("onehots", lambda: onehots(3, 4)),
        ("onehot", lambda: onehots(1, 3)[:, 0]),
        ("classes", lambda: torch.arange(5)),
        ("class_pair", lambda: torch.cartesian_prod(torch.arange(3), torch.arange(3))),
    ],
)
def test_every_kind_of_latent(kind, support):
    """To 1e-9: 6 bits and 3 x 4 categories have 64 states; also as classes of whole numbers. Whatever the
    pair says of pyro's enumeration."""
    assert_exact(codes(kind), rows(), z=support())
    assert_exact(codes(kind, discrete={"z": "enumerate"}), rows(), z=support())


def test_what_the_model_alone_has_stays_with_pyro():
    """To 1e-9: z3 summed in the model by Pyro, z1 and z2 here."""

    class Two(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.net = nn.Linear(2, 2)
            spread(self)

        def forward(self, x, *, n=None):
            logits = self.net(x)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z1", dist.Bernoulli(logits=logits[..., 0]))
                pyro.sample("z2", dist.Bernoulli(logits=logits[..., 1]))

    full = layers()
    built = build(Pair(model=lambda **b: full.model(**b), guide=Two, data=None, discrete={"z3": "enumerate"}))
    # The guide's q of z3 given all else is the model's own: then the sum over all three is the same number.
    batch, found = rows(), Enumeration().estimate(built, rows())
    total = torch.zeros(3)
    for z1 in bit():
        for z2 in bit():
            inside = []
            for z3 in bit():
                given = {"z1": z1.expand(3), "z2": z2.expand(3), "z3": z3.expand(3)}
                trace = poutine.trace(poutine.condition(full.model, given)).get_trace(**batch)
                trace.compute_log_prob()
                inside.append(sum(trace.nodes[n]["log_prob"] for n in ("z1", "z2", "z3", "x")))
            logits = built.guide.net(batch["x"])
            log_q = dist.Bernoulli(logits=logits).log_prob(torch.stack([z1, z2])).sum(-1)
            total = total + log_q.exp() * (torch.stack(inside).logsumexp(0) - log_q)
    torch.testing.assert_close(found.bound, total.detach(), rtol=1e-9, atol=1e-9)
    assert "log_evidence" not in found.metrics


# Beside continuous latents.


def gaussian_truth(built, batch):
    """ELBO of q(c | x) q(z | x, c) in closed form, per datum."""
    model, guide, x = built.model, built.guide, batch["x"].squeeze(-1)
    q = guide.classify(batch["x"]).log_softmax(-1)
    loc, scale = guide.locate(batch["x"]), (0.3 * guide.raw).exp()
    log_p = model.logits.log_softmax(-1)
    prior = torch.distributions.kl_divergence(dist.Normal(loc, scale), dist.Normal(model.loc, 1.0))
    likelihood = -0.5 * (math.log(2 * math.pi) + (x.unsqueeze(-1) - loc) ** 2 + scale**2)
    return (q.exp() * (log_p - q + likelihood - prior)).sum(-1)


@pytest.mark.parametrize("particles", [1, 3])
def test_a_gaussian_given_the_component(particles):
    """Against the closed form: 100 blocks of 100 copies of 2 data, seed 0, value and gradient within 4
    standard errors."""
    built, batch = components(), rows(2, 1)
    many = {"x": batch["x"].repeat(100, 1)}
    value = gaussian_truth(built, batch)
    built.zero_grad(set_to_none=True)
    (-value.mean()).backward()
    wanted = gradients(built)
    estimator, names = Enumeration(particles), list(wanted)
    torch.manual_seed(0)
    bounds, slopes = [], []
    for _ in range(100 // particles):
        objective = estimator.estimate(built, many)
        bounds.append(objective.bound.reshape(100, 2).mean(0))
        found = torch.autograd.grad(objective.losses["all"], list(built.parameters()))
        slopes.append(torch.cat([g.flatten() for g in found]))
    assert z_score(torch.stack(bounds), value.detach()).abs().max() < 4
    flat = torch.cat([wanted[name].flatten() for name in names])
    exact = torch.stack(slopes).std(0) < 1e-12  # what stands before c in the guide has no variance left
    torch.testing.assert_close(torch.stack(slopes).mean(0)[exact], flat[exact])
    assert z_score(torch.stack(slopes)[:, ~exact], flat[~exact]).abs().max() < 4
    assert "log_evidence" not in objective.metrics


def test_the_marginal_elbo_is_that_of_a_choice_by_site():
    """elbo:c=enumerate,z=reparameterized (Pyro's enumeration) has the same mean as `enumeration` and the
    closed form: 20,000 copies of 2 data each, seed 0, within 4 standard errors."""
    built, batch = components(), rows(2, 1)
    many = {"x": batch["x"].repeat(20_000, 1)}
    value = gaussian_truth(built, batch).detach()
    for text in ("elbo:c=enumerate,z=reparameterized", "enumeration", "enumeration:c=enumerate"):
        torch.manual_seed(0)
        bounds = find(text).estimate(built, many).bound.reshape(20_000, 2)
        assert z_score(bounds, value).abs().max() < 4, text


def test_states_that_agree_so_far_share_the_draw():
    """Exact: z before c is one draw for all c, so the weights add up to one; z after c has one for each c;
    between two layers, one for each state of the first."""
    batch = rows(2, 1)
    for guide, distinct in ((ComponentLast, 4), (None, 12)):
        built = components(*([guide] if guide else []))
        estimator = Enumeration(4)
        terms = estimator.score(built, batch, {})
        assert terms.particles == 12
        sites = [s for s in terms.sites.values() if isinstance(s.noise, Laid)]
        weight = probability(sites, terms)
        torch.testing.assert_close(weight.sum(0), torch.ones(2), rtol=1e-12, atol=1e-12)
        assert len(terms.sites["z"].value[:, 0].unique()) == distinct
        chosen = terms.sites["c"].value[:, 0].argmax(-1).reshape(4, 3)
        assert (chosen == torch.arange(3)).all()

    class Between(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                a = pyro.sample("a", dist.Bernoulli(logits=self.weight[0] * x[:, 0]))
                z = pyro.sample("z", dist.Normal(a + self.weight[1] * x[:, 0], 1.0))
                pyro.sample("b", dist.Bernoulli(logits=z + a))

    def model(x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.4)))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
            z = pyro.sample("z", dist.Normal(a - b, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    terms = Enumeration().score(build(Pair(model=model, guide=Between, data=None)), batch, {})
    assert terms.particles == 4
    z = terms.sites["z"].value[:, 0]
    assert z[0] == z[1]
    assert z[2] == z[3]
    assert z[0] != z[2]
    weight = probability([terms.sites["a"], terms.sites["b"]], terms)
    torch.testing.assert_close(weight.sum(0), torch.ones(2), rtol=1e-12, atol=1e-12)


def test_a_component_given_the_gaussian():
    """q(z | x) q(c | x, z): value and gradient of the mean over z, by 2,001 nodes, within 4 standard errors
    of 100 blocks of 1,000 draws, seed 0."""
    built, batch = components(ComponentLast), rows(1, 1)
    guide, model, names = built.guide, built.model, list(dict(built.named_parameters()))
    loc, scale = guide.locate(batch["x"])[0, 0], (0.3 * guide.raw[0]).exp()
    noise = torch.linspace(-8, 8, 2001)
    nodes, weights = loc + scale * noise, dist.Normal(0.0, 1.0).log_prob(noise).softmax(0)
    logits = guide.classify.weight.squeeze(-1) * (nodes.unsqueeze(-1) * guide.raw + guide.locate(batch["x"]))
    log_q = logits.log_softmax(-1)
    log_p = model.logits.log_softmax(-1) + dist.Normal(model.loc, 1.0).log_prob(nodes.unsqueeze(-1))
    likelihood = dist.Normal(nodes, 1.0).log_prob(batch["x"].squeeze())
    inside = (log_q.exp() * (log_p - log_q)).sum(-1) + likelihood - dist.Normal(loc, scale).log_prob(nodes)
    truth = (weights * inside).sum()
    wanted = torch.autograd.grad(-truth, list(built.parameters()), allow_unused=True)
    torch.manual_seed(0)
    bounds, slopes = [], {name: [] for name in names}
    for _ in range(100):
        objective = Enumeration().estimate(built, {"x": batch["x"].repeat(1_000, 1)})
        bounds.append(objective.bound.mean())
        loss, parameters = objective.losses["all"], list(built.parameters())
        for name, g in zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            slopes[name].append(g)
    assert z_score(torch.stack(bounds), truth.detach()).abs() < 4
    for name, g in zip(names, wanted, strict=True):
        if g is None:
            assert slopes[name] == [None] * 100
            continue
        found = torch.stack(slopes[name])
        drawn = found.std(0) > 1e-12
        torch.testing.assert_close(found.mean(0)[~drawn], g[~drawn])
        assert (z_score(found, g)[drawn].abs() < 4).all(), name


def test_a_global_latent_enters_once():
    """Exact to 1e-9 with a point for q(w): sum_c q(c) log w per datum, plus log p(w) / N."""

    def model(x=None, *, n=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(w + c, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.w, self.logit = nn.Parameter(torch.tensor(0.4)), nn.Parameter(torch.tensor(0.2))

        def forward(self, x, *, n=None):
            pyro.sample("w", dist.Delta(self.w))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("c", dist.Bernoulli(logits=self.logit))

    built, x = build(Pair(model=model, guide=Guide, data=None)), torch.tensor([0.3, -0.5, 1.0])
    built.num_data = 12
    w, q, p = built.guide.w, dist.Bernoulli(logits=built.guide.logit), dist.Bernoulli(torch.tensor(0.3))
    local = torch.zeros(3)
    for c in bit():
        log_weight = dist.Normal(w + c, 1.0).log_prob(x) + p.log_prob(c) - q.log_prob(c)
        local = local + q.log_prob(c).exp() * log_weight
    wanted = local + dist.Normal(0.0, 1.0).log_prob(w) / 12
    objective = Enumeration().estimate(built, {"x": x})
    torch.testing.assert_close(objective.bound, wanted.detach(), rtol=1e-9, atol=1e-9)
    slopes = torch.autograd.grad(objective.losses["all"], list(built.parameters()))
    for found, g in zip(slopes, torch.autograd.grad(-wanted.mean(), list(built.parameters())), strict=True):
        torch.testing.assert_close(found, g, rtol=1e-9, atol=1e-9)


def test_beta_weighs_the_rate_and_not_the_bound():
    """Exact to 1e-9: distortion + beta rate, the knob before the argument."""
    built, batch = layers(), rows()
    plain = Enumeration().estimate(built, batch)
    for objective in (
        Enumeration(beta=0.5).estimate(built, batch),
        Enumeration(beta=3.0).estimate(built, batch, {"beta": torch.tensor(0.5)}),
    ):
        torch.testing.assert_close(objective.bound, plain.bound)
        wanted = plain.metrics["distortion"] + 0.5 * plain.metrics["rate"]
        torch.testing.assert_close(objective.losses["all"].detach(), wanted, rtol=1e-9, atol=1e-9)


def test_without_discrete_latents_it_is_the_elbo():
    built = gaussian_toy(0.2, 0.7)
    loss, found = loss_and_gradients(Enumeration(3), built, ones(4))
    wanted_loss, wanted = loss_and_gradients(ELBO(3), built, ones(4))
    torch.testing.assert_close(loss, wanted_loss)
    assert_same(found, wanted)


def test_a_relaxed_latent_beside_an_enumerated_one():
    built = layers()
    objective = find("enumeration:z2=gumbel").estimate(built, rows())
    objective.losses["all"].backward()
    assert objective.bound is None  # of a point between the values
    assert objective.losses["all"].isfinite()
    assert find("enumeration:z2=gumbel").score(built, rows(), {}).particles == 4


# What surrounds the states.


def test_masked_data_have_no_terms():
    """To 1e-9: a datum whose latent and observation are masked adds nothing; its states are not counted
    twice."""

    class Masking(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.3))

        def forward(self, x=None, *, mask=None, n=None):
            with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=mask):
                z = pyro.sample("z", dist.Bernoulli(logits=self.logit))
                pyro.sample("x", dist.Normal(z + self.logit, 1.0), obs=x)

    class Guide(BernoulliGuide):
        def forward(self, x, *, mask=None, n=None):
            with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=mask):
                pyro.sample("z", dist.Bernoulli(logits=self.logit))

    built = build(Pair(model=Masking, guide=Guide, data=None))
    x = torch.tensor([0.3, -0.4, 1.2])
    whole = Enumeration().estimate(built, {"x": x, "mask": torch.tensor([True, True, True])})
    part = Enumeration().estimate(built, {"x": x, "mask": torch.tensor([True, False, True])})
    torch.testing.assert_close(part.bound[[0, 2]], whole.bound[[0, 2]], rtol=1e-12, atol=1e-12)
    assert part.bound[1] == 0.0
    one = Enumeration().estimate(built, {"x": x[1:2], "mask": torch.tensor([True])}).metrics["log_evidence"]
    wanted = (3 * whole.metrics["log_evidence"] - one) / 3
    torch.testing.assert_close(part.metrics["log_evidence"], wanted, rtol=1e-12, atol=1e-12)


def test_a_masked_latent_keeps_its_law():
    """Exact to 1e-12: where z alone is masked, sum_z q(z) log p(x | z), and log sum_z p(z) p(x | z)."""
    law, keep = dist.Bernoulli(torch.tensor(0.3)), torch.tensor([True, False])

    def model(x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", law.mask(keep))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(BernoulliGuide):
        def forward(self, x, *, n=None):
            with poutine.mask(mask=keep):
                super().forward(x)

    built, x = build(Pair(model=model, guide=Guide, data=None)), torch.tensor([0.3, 0.3])
    q = dist.Bernoulli(logits=built.guide.logit)
    log_q, log_p = q.log_prob(bit()), law.log_prob(bit())
    likelihood = dist.Normal(bit(), 1.0).log_prob(x[0])
    wanted = [(log_q.exp() * (likelihood + log_p - log_q)).sum(), (log_q.exp() * likelihood).sum()]
    found = Enumeration().estimate(built, {"x": x})
    torch.testing.assert_close(found.bound, torch.stack(wanted).detach(), rtol=1e-12, atol=1e-12)
    evidence = (log_p + likelihood).logsumexp(0).item()
    assert found.metrics["log_evidence"].item() == pytest.approx(evidence, abs=1e-12)


def test_a_state_that_q_excludes_is_silent():
    """log q = -inf: its term is zero, not nan."""

    class Sure(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.2, -math.inf, 0.5]))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Categorical(logits=self.logits, validate_args=False))

    def model(x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            pyro.sample("x", dist.Normal(z.to(x), 1.0), obs=x)

    built = build(Pair(model=model, guide=Sure, data=None))
    objective = Enumeration().estimate(built, ones(2))
    assert objective.bound.isfinite().all()


def test_two_estimates_of_one_seed_are_equal():
    """The look at the guide takes no random numbers."""
    built, batch = components(), rows(4, 1)
    estimator = Enumeration(2)
    bounds = []
    for _ in range(3):
        torch.manual_seed(3)
        bounds.append(estimator.estimate(built, batch).bound)
    assert torch.equal(bounds[0], bounds[1])
    assert torch.equal(bounds[1], bounds[2])


def test_a_guide_whose_latents_change_is_looked_at_anew():
    """To 1e-9: as many bits as the data are wide, in the second batch one more."""

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.4))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                for i in range(x.shape[-1]):
                    pyro.sample(f"z{i}", dist.Bernoulli(logits=self.logit * (i + 1)))

    def model(x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            loc = torch.zeros(())
            for i in range(x.shape[-1]):
                loc = loc + pyro.sample(f"z{i}", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1), obs=x[:, :1])

    built, estimator = build(Pair(model=model, guide=Guide, data=None)), Enumeration()
    for width in (2, 3, 1, 2):
        batch = rows(3, width)
        wanted, _ = by_sum(built, batch, **{f"z{i}": bit() for i in range(width)})
        torch.testing.assert_close(estimator.estimate(built, batch).bound, wanted.detach())


def test_refuses_with_the_reason():
    with pytest.raises(PairError, match=r"64 joint states of z, more than limit=63.*use vimco"):
        Enumeration(limit=63)(codes("bits"))(rows())
    with pytest.raises(PairError, match=r"about 10\^6021 joint states"):
        Enumeration()(
            one_latent(lambda: dist.Bernoulli(torch.full((20_000,), 0.4)).to_event(1), scored=False)
        )(ones(3))
    with pytest.raises(UsageError, match="z=score does not go with enumeration"):
        find("enumeration:z=score")
    with pytest.raises(PairError, match="forbids it"):
        Enumeration()(codes("bits", vectorize=False))(rows())
    with pytest.raises(PairError, match="forbids it"):  # as many data as states: no shape tells them apart
        Enumeration()(codes("onehot", vectorize=False))(rows(3))
    with pytest.raises(PairError, match="'zz', did you mean 'z'"):
        find("enumeration:zz=enumerate")(codes("bits"))(rows())


def one_latent(law, plate=None, outside=False, scored=True):
    def model(x=None, *, n=None):
        z = pyro.sample("z", law()) if outside else None
        with pyro.plate("data", len(x), dim=-1):
            if plate:
                with pyro.plate("inner", plate, dim=-2):
                    pyro.sample("z", law())
            elif not outside:
                z = pyro.sample("z", law())
            given = scored and z is not None
            pyro.sample("x", dist.Normal(z.to(x) if given else torch.zeros(()), 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, x, *, n=None):
            if outside:
                pyro.sample("z", law())
                return
            with pyro.plate("data", len(x), dim=-1):
                if plate:
                    with pyro.plate("inner", plate, dim=-2):
                        pyro.sample("z", law())
                else:
                    pyro.sample("z", law())

    return build(Pair(model=model, guide=Guide, data=None, plates=2 if plate else 1))


def test_refuses_places_and_kinds_that_it_would_get_wrong():
    def coin():
        return dist.Bernoulli(torch.tensor(0.4))

    with pytest.raises(PairError, match=r"'z' lies in an inner plate: use \.to_event"):
        Enumeration()(one_latent(coin, plate=2))(ones(3))
    with pytest.raises(PairError, match="'z' lies outside the data plate"):
        Enumeration()(one_latent(coin, outside=True))(ones(3))
    with pytest.raises(PairError, match="'z' is drawn from a Poisson, whose states are not listed"):
        Enumeration()(one_latent(lambda: dist.Poisson(torch.tensor(2.0))))(ones(3))


def test_refuses_dropout_beside_a_drawn_latent():
    class Dropping(ComponentLast):
        def __init__(self, model):
            super().__init__(model)
            self.drop = nn.Dropout(0.5)

    built = build(Pair(model=Components, guide=Dropping, data=None))
    with pytest.raises(PairError, match="the guide has dropout"):
        Enumeration()(built)(rows(2, 1))
    built.eval()
    Enumeration()(built)(rows(2, 1))


@pytest.mark.parametrize("kind", ["bits", "onehots", "class_pair"])
def test_no_step_waits_for_the_device(kind):
    built, batch, estimator = codes(kind), rows(), Enumeration()
    estimator.estimate(built, batch)  # the first looks
    assert waits(lambda: estimator.estimate(built, batch).losses["all"].backward()) == []


def test_is_found_by_name():
    assert spelled(find("enumeration:k=2,limit=64,beta=0.5")) == "enumeration:particles=2,limit=64,beta=0.5"

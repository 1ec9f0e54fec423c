"""Scoring: what goes into the terms, what is refused, and that nothing else is drawn or read."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false

import contextlib
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import ELBO, IWAE, AnalyticKL, AsPyro
from ppvae.pair import Pair, penalty
from ppvae.scoring import score
from tests.toys import (
    GUIDE_A,
    MLP_VAE,
    assert_same,
    bernoulli_toy,
    bits,
    gaussian_toy,
    loss_and_gradients,
    made,
    ones,
    pair_names,
    pyro_loss_and_gradients,
    z_score,
)

pytestmark = pytest.mark.usefixtures("float64")


def log_normal(x: float, loc: float, scale: float) -> float:
    return -0.5 * ((x - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


@settings(max_examples=25, deadline=None)
@given(
    particles=st.integers(1, 4),
    rows=st.integers(1, 5),
    words=st.integers(1, 4),
    event=st.lists(st.integers(1, 3), max_size=2),
    masked=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_scoring_equals_plain_python(particles, rows, words, event, masked, seed):
    """Exact to 1e-9: a latent per datum, one per word, and data per word, by loops over floats."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    x, dims = torch.randn(words, rows, *event), len(event)
    mask = torch.rand(words, rows) < 0.5 if masked else None

    def both(guide):
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(event), 2.0 if guide else 1.0).to_event(dims))
            with pyro.plate("words", words, dim=-2), poutine.mask(mask=True if mask is None else mask):
                w = pyro.sample("w", dist.Normal(z, 0.7 if guide else 1.5).to_event(dims))
                if not guide:
                    pyro.sample("x", dist.Normal(w, 0.5).to_event(dims), obs=x)

    terms = score(lambda: both(False), lambda: both(True), {}, particles=particles, plates=2)
    z = terms.sites["z"].value.reshape(particles, rows, -1)
    w = terms.sites["w"].value.reshape(particles, words, rows, -1)
    flat = x.reshape(words, rows, -1)
    for k in range(particles):
        for b in range(rows):
            rate = seen = 0.0
            for e in range(flat.shape[-1]):
                at = float(z[k, b, e])
                rate += log_normal(at, 0, 1) - log_normal(at, 0, 2)
                for t in range(words):
                    if mask is None or mask[t, b]:
                        here = float(w[k, t, b, e])
                        rate += log_normal(here, at, 1.5) - log_normal(here, at, 0.7)
                        seen += log_normal(float(flat[t, b, e]), here, 0.5)
            assert float(terms.log_ratio[k, b]) == pytest.approx(rate, rel=1e-9, abs=1e-9)
            assert float(terms.log_likelihood[k, b]) == pytest.approx(seen, rel=1e-9, abs=1e-9)
            assert float(terms.log_weight[k, b]) == pytest.approx(rate + seen, rel=1e-9, abs=1e-9)
    assert (terms.particles, terms.rows, terms.num_data, terms.joint) == (particles, rows, rows, False)


# Trap 1: scales.


def scaled_pair(rows: int, size: int | None, scale: float = 1.0):
    """Toy A with a subsampled data plate and a scale of the user's."""
    data = torch.linspace(-1, 2, rows)

    def model(**_):
        with pyro.plate("data", rows, subsample_size=size, dim=-1) as index, poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data[index])

    def guide(**_):
        with pyro.plate("data", rows, subsample_size=size, dim=-1), poutine.scale(scale=scale):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    return model, guide


@pytest.mark.parametrize("particles", [1, 3])
def test_a_subsampled_plate_keeps_the_elbo_right(particles):
    """Exact to 1e-9: the subsample's N / B leaves the weights, so that ours is Trace_ELBO / N under one
    seed."""
    model, guide = scaled_pair(12, 4)
    terms = score(model, guide, {}, particles=particles)
    assert (terms.rows, terms.num_data, terms.scaled) == (4, 12, ())
    torch.manual_seed(2)
    ours = ELBO(particles=particles).objective(score(model, guide, {}, particles=particles), {})
    torch.manual_seed(2)
    theirs = Trace_ELBO(particles, max_plate_nesting=1, vectorize_particles=particles > 1).loss(model, guide)
    assert float(ours.losses["all"]) * 12 == pytest.approx(theirs, rel=1e-9)
    IWAE(particles=particles).refuse(terms)  # the plate's own scale is ours to take out


def test_a_scale_of_the_user_stays_inside_and_iwae_refuses_it():
    """Exact to 1e-9: poutine.scale(s) multiplies the weight by s, with or without a subsample beside it."""
    for size in (None, 4):
        torch.manual_seed(4)
        plain = score(*scaled_pair(12, size), {}, particles=2)
        torch.manual_seed(4)
        scaled = score(*scaled_pair(12, size, 3.0), {}, particles=2)
        torch.testing.assert_close(scaled.log_weight, 3 * plain.log_weight, rtol=1e-9, atol=1e-9)
        assert set(scaled.scaled) == {"x", "z"}
        with pytest.raises(PairError, match=r"cannot take the scale of site '[xz]'"):
            IWAE(particles=2).refuse(scaled)
        ELBO(particles=2).refuse(scaled)


@pytest.mark.parametrize(("s", "truth"), [(1, -1.653474), (4, -1.459188), (64, -1.336936)])
def test_pyros_renyi_elbo_exceeds_the_evidence_under_a_scale(s, truth):
    """Toy A, K = 2, 200,000 data, seed 0: 4 standard errors, at most .01. At s = 4 and 64 it reads above
    log p = -1.515512, which no lower bound may."""
    built, batch = gaussian_toy(*GUIDE_A), ones(200_000)
    torch.manual_seed(0)
    loss = RenyiELBO(alpha=0, num_particles=2, max_plate_nesting=1, vectorize_particles=True)
    scaled = poutine.scale(built.run_model, scale=float(s)), poutine.scale(built.run_guide, scale=float(s))
    value = -loss.loss(*scaled, **batch) / 200_000 / s
    assert value == pytest.approx(truth, abs=0.01)
    assert (value > -1.515512) == (s > 1)


# Trap 3: scoring draws the guide's numbers and no others.


@pytest.mark.parametrize("name", pair_names())
@pytest.mark.parametrize("particles", [1, 3])
def test_scoring_draws_nothing_but_the_guide(name, particles):
    torch.set_default_dtype(torch.float32)
    built, batch = made(name)
    built.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        built.score(batch, particles)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    with torch.no_grad(), built.local():
        if particles > 1:
            with pyro.plate("particles", particles, dim=-1 - built.pair.plates):
                built.run_guide(**built.inputs(batch))
        else:
            built.run_guide(**built.inputs(batch))
    assert torch.equal(after, torch.get_rng_state())


# Trap 4: shapes that would broadcast.


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("particles", [1, 3, 16])
@pytest.mark.parametrize("event_dim", [0, 1])
def test_a_silent_broadcast_is_an_error_that_names_the_site(validate, particles, event_dim):
    """(16,) data against a (16, 1) loc, with the last dim a batch or an event dim."""

    def model(x=None):
        with pyro.plate("data", 16, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(event_dim), obs=x)

    def guide(x):
        with pyro.plate("data", 16, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    with pyro.validation_enabled(validate), pytest.raises((PairError, ValueError), match=r"site '?x'? "):
        score(model, guide, {"x": torch.zeros(16)}, particles=particles)


def test_a_value_outside_the_support_names_the_site():
    def model(x=None):
        with pyro.plate("data", 3, dim=-1):
            pyro.sample("x", dist.Bernoulli(torch.tensor(0.5)), obs=x)

    with pytest.raises(PairError, match=r"site 'x' cannot be scored: .*support"):
        score(model, lambda x: None, {"x": torch.full((3,), 0.3)})


# Trap 5 and its kin: sites that do not fit.


def simple(name="z", plate="data", dim=-1, observed=False, **sample):
    def guide(x=None):
        with pyro.plate(plate, 3, dim=dim):
            pyro.sample(
                name, dist.Normal(torch.zeros(()), 1.0), obs=torch.zeros(3) if observed else None, **sample
            )

    return guide


def plain_model(x=None):
    with pyro.plate("data", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (lambda x: None, "latent 'z' is missing from the guide"),
        (simple("u"), "guide site 'u' is not in the model"),
        (simple("z", observed=True), "guide site 'z' is observed"),
    ],
)
def test_sites_that_do_not_fit_are_named(guide, message, validate):
    with pyro.validation_enabled(validate), pytest.raises(PairError, match=message):
        score(plain_model, guide, {"x": torch.zeros(3)})


def test_an_auxiliary_guide_site_counts_against_the_bound():
    def guide(x):
        with pyro.plate("data", 3, dim=-1):
            u = pyro.sample("u", dist.Normal(torch.zeros(()), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u, 1.0))

    terms = score(plain_model, guide, {"x": torch.zeros(3)})
    u = terms.sites["u"]
    assert u.p is None
    torch.testing.assert_close(u.log_ratio, -u.q.log_prob(u.value).unsqueeze(0))


@pytest.mark.parametrize(
    ("plate", "dim", "message"),
    [("rows", -1, 'plate called "data"'), ("data", -2, 'plate "data" is at dim -2')],
)
def test_the_data_plate_is_where_it_belongs(plate, dim, message):
    model = simple("z", plate, dim)
    with pytest.raises(PairError, match=message):
        score(model, model, {"x": torch.zeros(3)}, plates=2)


def test_too_few_plates_declared():
    def model(x=None):
        with pyro.plate("data", 3, dim=-1), pyro.plate("words", 2, dim=-2), pyro.plate("more", 4, dim=-3):
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    with pytest.raises(PairError, match=r"'x'.*plates=1|'x'.*no plate"):
        score(model, lambda x: None, {"x": torch.zeros(4, 2, 3)}, plates=1)
    assert score(model, lambda x: None, {"x": torch.zeros(4, 2, 3)}, plates=3).log_weight.shape == (1, 3)


def test_a_pair_that_closes_over_its_data_is_no_joint_model():
    """Without arguments but with a data plate: global terms are divided by N, not counted for each datum."""

    def model():
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", 5, dim=-1):
            pyro.sample("x", dist.Normal(w, 1.0), obs=torch.ones(5))

    def guide():
        pyro.sample("w", dist.Normal(torch.zeros(()), 0.5))

    terms = score(model, guide, {}, particles=2)
    assert (terms.joint, terms.rows, terms.num_data, terms.has_global) == (False, 5, 5, True)
    torch.manual_seed(0)
    ours = ELBO().objective(score(model, guide, {}), {}).losses["all"]
    torch.manual_seed(0)
    assert float(ours) * 5 == pytest.approx(Trace_ELBO().loss(model, guide), rel=1e-9)


def test_a_bound_site_is_refused_by_weights():
    def model(x=None):
        with pyro.plate("data", 3, dim=-1):
            chain = dist.Unit(torch.full((3,), -2.0))
            pyro.sample("chain", chain, obs=torch.zeros(3, 0), infer={"is_bound": True})
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    terms = score(model, lambda x: None, {"x": torch.zeros(3)}, particles=2)
    assert terms.sites["chain"].kind == "bound"
    assert terms.log_ratio.mean() == -2
    with pytest.raises(PairError, match="'chain', which is an estimate of a bound"):
        IWAE(particles=2).refuse(terms)
    assert ELBO(particles=2).objective(terms, {}).bound[0] == pytest.approx(-2 - 0.5 * math.log(2 * math.pi))


def test_penalties_of_one_name_are_refused():
    def model(x=None):
        plain_model(x)
        penalty("p", torch.ones(3))

    def guide(x):
        simple("z")(x)
        penalty("p", torch.ones(()))

    with pytest.raises(PairError, match="two penalties are called 'p'"):
        score(model, guide, {"x": torch.zeros(3)})


def test_a_closed_kl_needs_model_and_guide_weighted_alike():
    """Where a guide forgets the model's mask or scale there is no common KL: the sampled ratio is kept."""
    for handler in (poutine.mask(mask=torch.tensor([True, False, True])), poutine.scale(scale=2.0)):
        terms = score(handler(plain_model), simple("z"), {"x": torch.zeros(3)})
        kl, sampled = terms.sites["z"].analytic_kl(), -terms.sites["z"].log_ratio
        if kl is not None:  # the mask: closed where both count, sampled where the guide counts alone
            assert torch.equal(kl[:, [0, 2]], torch.zeros(1, 2))
            assert torch.equal(kl[:, 1], sampled[:, 1])
        alike = score(handler(plain_model), handler(simple("z", "data")), {"x": torch.zeros(3)})
        assert torch.equal(alike.sites["z"].analytic_kl(), torch.zeros(1, 3))
        assert torch.isfinite(AnalyticKL().objective(terms, {}).bound).all()


@pytest.mark.parametrize("how", ["score", "enumerate"])
def test_particles_one_after_another_keep_what_has_no_law(how):
    """A latent that is summed out has a log q and no law; masks and scales apart, a drawn one's is its
    log q."""
    built = bernoulli_toy(how=how)
    terms = score(
        built.run_model, built.run_guide, ones(5), particles=3, enumerated=built.enumerated, vectorize=False
    )
    site = terms.sites["z"]
    assert site.log_q.shape == (3, 5)
    assert site.law is (None if how == "enumerate" else site.log_q)


def test_particles_one_after_another_are_the_same_terms():
    """Exact to 1e-9: each particle's scores follow from its own values."""
    built, batch = build(MLP_VAE), bits(5)
    terms = score(built.run_model, built.run_guide, batch, particles=4, vectorize=False)
    assert terms.log_weight.shape == (4, 5)
    z, x = terms.sites["z"].value, batch["x"]
    loc, raw = built.guide.encoder(x).chunk(2, -1)
    wanted = (
        dist.Bernoulli(logits=built.model.decoder(z)).log_prob(x).sum(-1)
        + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        - dist.Normal(loc, raw.exp()).log_prob(z).sum(-1)
    )
    torch.testing.assert_close(terms.log_weight, wanted, rtol=1e-9, atol=1e-9)
    kl = terms.sites["z"].analytic_kl()
    assert kl.shape == (4, 5)
    torch.testing.assert_close(
        kl[0], score(built.run_model, built.run_guide, batch).sites["z"].analytic_kl()[0]
    )


def test_pyro_differentiates_the_toy():
    """The comparison tests rest on it: Pyro's gradient of a plain module is not silently zero."""
    built = gaussian_toy(*GUIDE_A)
    _, found = pyro_loss_and_gradients(Trace_ELBO(max_plate_nesting=1), built, ones(3))
    assert all(g.abs().sum() > 0 for g in found.values())
    assert isinstance(built.pair, Pair)


# Points with a density, models without data, plates and masks that differ, factors.


def by(loss, model, guide, *args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return loss.differentiable_loss(model, guide, *args, **kwargs).detach()


@pytest.mark.parametrize("prior", [dist.LogNormal, dist.Gamma])
def test_an_autoguides_points_have_no_closed_kl(prior):
    """Exact to 1e-9: AutoNormal draws a positive latent as a point with a density; analytic_kl is then the
    elbo, which is Trace_ELBO."""

    def model(x):
        s = pyro.sample("s", prior(torch.tensor(2.0), 1.0))
        with pyro.plate("data", 5, dim=-1):
            pyro.sample("x", dist.Normal(0.0, s), obs=x)

    x = torch.randn(5)
    guide = AutoNormal(model, init_scale=0.7)
    guide(x)
    wanted = by(Trace_ELBO(max_plate_nesting=1), model, guide, x)
    assert float(by(AsPyro(ELBO()), model, guide, x)) == pytest.approx(float(wanted), rel=1e-9)
    assert float(by(AsPyro(AnalyticKL()), model, guide, x)) == pytest.approx(float(wanted), rel=1e-9)


def test_a_point_with_a_density_stays_below_the_evidence():
    """Against quadrature; 2000 draws at x = .3, seed 0, where the bound lies .05 below log p(x), its standard
    error .01. Without the point's density it would lie 1.2 above."""
    rows = 2000

    def model(x):
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    def guide(x):
        with pyro.plate("data", rows, dim=-1):
            u = pyro.sample(
                "u", dist.Normal(math.log(0.3) + torch.zeros(()), 0.3), infer={"is_auxiliary": True}
            )
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u))

    x = torch.full((rows,), 0.3)
    grid = torch.linspace(-8, 5, 20_001)
    joint = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid.exp(), 0.1).log_prob(torch.tensor(0.3))
    evidence = float(joint.logsumexp(0)) + math.log(13 / 20_000)
    terms = score(model, guide, {"x": x})
    assert terms.sites["z"].analytic_kl() is None
    bound = AnalyticKL().objective(terms, {}).bound
    assert torch.equal(bound, ELBO().objective(terms, {}).bound)
    assert evidence - 0.1 < float(bound.mean()) < evidence


SCHOOLS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])


def schools(*, n=None):
    """Eight schools: no data from outside, and a plate at dim -1 that is none of data."""
    y, error = SCHOOLS
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 5.0))
    with pyro.plate("schools", 8, dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, 3.0))
        pyro.sample("y", dist.Normal(theta, error.to(mu)), obs=y.to(mu))


class SchoolsGuide(nn.Module):
    def __init__(self, model=None):
        super().__init__()
        self.mu, self.theta = nn.Parameter(torch.tensor(4.0)), nn.Parameter(torch.zeros(8))

    def forward(self, *, n=None):
        mu = pyro.sample("mu", dist.Normal(self.mu, 2.0))
        with pyro.plate("schools", 8, dim=-1):
            pyro.sample("theta", dist.Normal(mu + self.theta, 2.0))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ELBO(), Trace_ELBO(max_plate_nesting=1)),
        (ELBO(3), Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True)),
        (AnalyticKL(2), TraceMeanField_ELBO(2, max_plate_nesting=1, vectorize_particles=True)),
        (IWAE(2), RenyiELBO(alpha=0, num_particles=2, max_plate_nesting=1, vectorize_particles=True)),
        (IWAE(50), RenyiELBO(alpha=0, num_particles=50, max_plate_nesting=1, vectorize_particles=True)),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_plate_in_a_model_without_data(ours, theirs):
    """Exact to 1e-9, one seed: the eight schools are one datum, whatever plates it has."""
    guide = SchoolsGuide()
    terms = score(schools, guide, {}, particles=2)
    assert (terms.joint, terms.log_weight.shape, terms.log_global.abs().sum()) == (True, (2, 1), 0)
    torch.manual_seed(3)
    found = AsPyro(ours).loss(schools, guide)
    torch.manual_seed(3)
    assert found == pytest.approx(theirs.loss(schools, guide), rel=1e-9)


def test_a_pair_without_data_has_a_gradient_for_every_parameter():
    """Exact to 1e-9: that of Trace_ELBO."""
    built = build(Pair(model=schools, guide=SchoolsGuide, data=None, observed=()))
    mine, found = loss_and_gradients(ELBO(), built, {})
    value, wanted = pyro_loss_and_gradients(Trace_ELBO(max_plate_nesting=1), built, {})
    assert float(mine) == pytest.approx(float(value), rel=1e-9)
    assert_same(found, wanted)
    assert all(g.abs().sum() > 0 for g in found.values())


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (["data"], [], "none in the guide and 'data' at dim -1 in the model"),
        ([], ["data"], "'data' at dim -1 in the guide and none in the model"),
        (
            ["data", "words"],
            ["data"],
            "'data' at dim -1 in the guide and 'data' at dim -1, 'words' at dim -2 in the model",
        ),
    ],
)
@pytest.mark.parametrize("particles", [1, 3])
def test_a_latent_in_other_plates_in_guide_and_model(model, guide, message, particles):
    def both(plates, x=None):
        data, words = pyro.plate("data", 3, dim=-1), pyro.plate("words", 2, dim=-2)
        with contextlib.ExitStack() as stack:
            for plate in (data, words):
                if plate.name in plates:
                    stack.enter_context(plate)
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        if x is not None:
            with data:
                pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    def run(*plates):
        return score(
            lambda x: both(plates[0], x),
            lambda x: both(plates[1]),
            {"x": torch.zeros(3)},
            particles=particles,
            plates=2,
        )

    with pytest.raises(PairError, match=f"latent 'z' lies in the plates {message}"):
        run(model, guide)
    assert run(model, model).log_weight.shape == (particles, 3)


def test_masks_that_differ_leave_the_closed_kl_unbiased():
    """Exact to 1e-9 in each row, and 4 standard errors of 20,000 draws (seed 0) in the mean: where guide and
    model both count, the closed form, else what was sampled."""
    in_model = torch.tensor([True, True, False, False])
    in_guide = torch.tensor([True, False, True, False])
    x = torch.tensor([0.5, -1.0, 2.0, 1.0])

    def model(x):
        with pyro.plate("data", 4, dim=-1):
            with poutine.mask(mask=in_model):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 4, dim=-1), poutine.mask(mask=in_guide):
            pyro.sample("z", dist.Normal(x, 0.5))

    terms = score(model, guide, {"x": x}, particles=20_000)
    site = terms.sites["z"]
    kl, sampled = site.analytic_kl().expand(20_000, 4), -site.log_ratio
    closed = torch.distributions.kl_divergence(dist.Normal(x, 0.5), dist.Normal(0.0, 1.0))
    torch.testing.assert_close(kl[:, 0], closed[0].expand(20_000), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(kl[:, 1:], sampled[:, 1:], rtol=1e-9, atol=1e-9)
    assert float(z_score(sampled[:, 0], closed[0]).abs()) < 4
    loss = AnalyticKL().objective(terms, {}).losses["all"]
    draws = terms.log_weight.mean(1)
    assert float(z_score(draws, -loss).abs()) < 4


def factored(has_rsample, slope):
    def guide(x):
        with pyro.plate("data", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(slope.expand(3), 0.5))
            pyro.factor("f", slope * z, has_rsample=has_rsample)

    return guide


def test_a_guide_factor_says_whether_it_is_differentiated():
    """Exact to 1e-9: unsaid it is refused, as by Pyro; with True, value and gradient are Trace_ELBO's."""
    slope, x = torch.tensor(0.3, requires_grad=True), torch.tensor([0.5, -1.0, 2.0])
    with pytest.raises(PairError, match=r"guide factor 'f' .*has_rsample=True\), or False"):
        score(plain_model, factored(None, slope), {"x": x})
    found, wanted = [], []
    theirs = Trace_ELBO(2, max_plate_nesting=1, vectorize_particles=True)
    for loss, into in ((AsPyro(ELBO(2)), found), (theirs, wanted)):
        torch.manual_seed(0)
        value = loss.differentiable_loss(plain_model, factored(True, slope), x)
        into += [value.detach(), torch.autograd.grad(value, slope)[0]]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_factor_of_hidden_draws_has_its_score_function():
    """Exact to 1e-9: c ~ q is drawn outside of Pyro and told by a factor; the gradients at c = 0 and 1,
    weighted by q(c), are that of sum_c q(c) [log p(x, c) - log q(c)]. Trace_ELBO leaves log q(c) out of the
    weight (as for every site that the guide alone has), and with it the gradient of q's entropy."""
    logit, x = torch.tensor(0.4, requires_grad=True), torch.tensor(0.7)

    def model(x):
        with pyro.plate("data", 1, dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x.unsqueeze(0))

    def guide_at(c):
        def guide(x):
            with pyro.plate("data", 1, dim=-1):
                pyro.sample("c", dist.Delta(torch.tensor([c])))
                pyro.factor("q", dist.Bernoulli(logits=logit).log_prob(torch.tensor([c])), has_rsample=False)

        return guide

    q = [torch.sigmoid(-logit), torch.sigmoid(logit)]
    prior = [0.7, 0.3]
    each = [math.log(prior[c]) + dist.Normal(float(c), 1.0).log_prob(x) - q[c].log() for c in (0, 1)]
    exact = torch.autograd.grad(-(q[0] * each[0] + q[1] * each[1]), logit, retain_graph=True)[0]

    def mean(loss):
        grads = [
            torch.autograd.grad(loss.differentiable_loss(model, guide_at(float(c)), x), logit)[0]
            for c in (0, 1)
        ]
        return q[0].detach() * grads[0] + q[1].detach() * grads[1]

    torch.testing.assert_close(mean(AsPyro(ELBO())), exact, rtol=1e-9, atol=1e-9)
    entropy = torch.autograd.grad(q[0] * q[0].log() + q[1] * q[1].log(), logit)[0]
    torch.testing.assert_close(mean(Trace_ELBO(max_plate_nesting=1)), exact - entropy, rtol=1e-9, atol=1e-9)

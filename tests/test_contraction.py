"""Enumerated latents: summed out exactly, in the model, in the guide, in both, and word by word."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

from ppvae.build import build
from ppvae.contraction import Factor, contract
from ppvae.errors import PairError
from ppvae.estimators import ELBO, IWAE, AnalyticKL, AsPyro
from ppvae.evaluation.importance import log_likelihood
from ppvae.pair import Pair
from ppvae.scoring import score
from tests.test_proof_pairs import make

pytestmark = pytest.mark.usefixtures("float64")


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def normal(value, loc, scale):
    return dist.Normal(loc, scale).log_prob(value).sum(-1)


@pytest.mark.parametrize("particles", [1, 4])
def test_summed_in_the_model_by_hand(particles):
    """Exact to 1e-9: log w = logsumexp_c [log p(c, z, x)] - log q(z | x); the parts of the sites add up to
    it, and the component's part is the rate of the posterior r over c."""
    _, built, batch = make("mixture:PAIR")
    terms = built.score(batch, particles)
    m, z, x = built.model, terms.sites["z"].value.reshape(particles, 16, 2), batch["x"]
    log_c = m.logits.log_softmax(-1)
    each = [
        (
            log_c[c],
            normal(z, m.loc[c], m.raw_scale[c].exp()),
            normal(x, m.out(z) + m.shift[c], torch.tensor(0.5)),
        )
        for c in range(3)
    ]
    joint = torch.stack([sum(parts) for parts in each])
    loc, raw = built.guide.encoder(x).chunk(2, -1)
    close(terms.log_weight, joint.logsumexp(0) - normal(z, loc, raw.exp()))
    r = joint.softmax(0)
    for i, (name, wanted) in enumerate({"c": None, "z": 1, "x": 2}.items()):
        part = sum(r[c] * each[c][i] for c in range(3))
        close(terms.sites[name].log_p, part)
        assert wanted is None or i == wanted
    close(terms.sites["c"].log_q, (r * r.log()).sum(0))
    assert (-terms.sites["c"].log_ratio >= -1e-12).all()
    close(sum(site.log_ratio for site in terms.sites.values()), terms.log_weight)
    close(terms.log_likelihood + terms.log_ratio, terms.log_weight)
    assert terms.sites["c"].how == "enumerate"
    # p(z | c) stands inside the sum over c, so its KL has no place in the bound: the sampled ratio is kept.
    assert terms.sites["z"].analytic_kl() is None


@pytest.mark.parametrize("particles", [1, 4])
def test_summed_under_the_guide_by_hand(particles):
    """Exact to 1e-9: sum_c q(c | x) log [p(c, z_c, x) / q(c, z_c | x)], z_c drawn for each c, and its KL
    likewise."""
    _, built, batch = make("mixture:IN_GUIDE")
    terms = built.score(batch, particles)
    m, g, x = built.model, built.guide, batch["x"]
    z = terms.sites["z"].value.reshape(3, particles, 16, 2)
    log_q, log_c = g.classify(x).log_softmax(-1), m.logits.log_softmax(-1)
    loc, raw = g.encoder(x).chunk(2, -1)
    weight, kl = 0, 0
    for c in range(3):
        log_p = log_c[c] + normal(z[c], m.loc[c], m.raw_scale[c].exp())
        log_p = log_p + normal(x, m.out(z[c]) + m.shift[c], torch.tensor(0.5))
        weight = weight + log_q[:, c].exp() * (
            log_p - log_q[:, c] - normal(z[c], loc + g.shift[c], raw.exp())
        )
        q, p = dist.Normal(loc + g.shift[c], raw.exp()), dist.Normal(m.loc[c], m.raw_scale[c].exp())
        kl = kl + log_q[:, c].exp() * torch.distributions.kl_divergence(q, p).sum(-1)
    close(terms.log_weight, weight)
    close(terms.sites["z"].analytic_kl().expand(particles, 16), kl.expand(particles, 16))
    assert terms.expected == ("c",)
    assert AnalyticKL(particles=particles).objective(terms, {}).bound.shape == (16,)


def test_sum_in_the_model_is_the_evidence_whatever_k():
    """Exact to 1e-9: with nothing left to draw, ELBO and IWAE both are log p(x)."""

    def model(x=None):
        with pyro.plate("data", 4, dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            d = pyro.sample("d", dist.Bernoulli(torch.tensor([0.1, 0.6, 0.7])[c]))
            pyro.sample("x", dist.Normal(c + 2.0 * d, 1.0), obs=x)

    x = torch.tensor([0.0, 1.0, -2.0, 3.0])
    wanted = []
    for c, d in itertools.product(range(3), range(2)):
        on = torch.tensor([0.1, 0.6, 0.7][c])
        prior = math.log([0.2, 0.3, 0.5][c]) + (on if d else 1 - on).log()
        wanted.append(prior + dist.Normal(c + 2.0 * d, 1.0).log_prob(x))
    truth = torch.stack(wanted).logsumexp(0)
    for particles, estimator in itertools.product((1, 3), (ELBO, IWAE, AnalyticKL)):
        terms = score(model, lambda x: None, {"x": x}, particles=particles, enumerated=("c", "d"))
        estimator(particles=particles).refuse(terms)
        close(estimator(particles=particles).objective(terms, {}).bound, truth)
        close(sum(site.log_ratio for site in terms.sites.values()), truth.expand(particles, 4))


@settings(max_examples=20, deadline=None)
@given(
    particles=st.integers(1, 3),
    rows=st.integers(1, 4),
    words=st.integers(1, 3),
    components=st.integers(1, 4),
    where=st.sampled_from(["model", "guide"]),
    seed=st.integers(0, 10_000),
)
def test_a_mixture_per_word_against_brute_force(particles, rows, words, components, where, seed):
    """Exact to 1e-9: z per datum, c per word, x per word and y per datum; each word's c summed by itself."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    x, y = torch.randn(words, rows), torch.randn(rows)
    logits, loc, toward = torch.randn(components), torch.randn(components), torch.randn(components)
    probe = torch.randn(words, rows, components)

    def model(x=None, y=None):
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("words", words, dim=-2):
                c = pyro.sample("c", dist.Categorical(logits=logits + z.unsqueeze(-1) * toward))
                pyro.sample("x", dist.Normal(loc[c] + z, 0.7), obs=x)
            pyro.sample("y", dist.Normal(z, 0.4), obs=y)

    def guide(x, y):
        with pyro.plate("data", rows, dim=-1):
            pyro.sample("z", dist.Normal(y, 0.8))
            if where == "guide":
                with pyro.plate("words", words, dim=-2):
                    pyro.sample("c", dist.Categorical(logits=probe))

    terms = score(model, guide, {"x": x, "y": y}, particles=particles, plates=2, enumerated=("c",))
    z = terms.sites["z"].value.reshape(particles, 1, rows)
    log_c = (logits + z.unsqueeze(-1) * toward).log_softmax(-1)  # (K, 1, B, C)
    log_x = dist.Normal(loc + z.unsqueeze(-1), 0.7).log_prob(x.unsqueeze(-1))  # (K, W, B, C)
    if where == "model":
        per_word = (log_c + log_x).logsumexp(-1)
    else:
        log_q = probe.log_softmax(-1)
        per_word = (log_q.exp() * (log_c + log_x - log_q)).sum(-1)
    at = z.squeeze(1)
    rest = (
        dist.Normal(0.0, 1.0).log_prob(at)
        - dist.Normal(y, 0.8).log_prob(at)
        + dist.Normal(at, 0.4).log_prob(y)
    )
    close(terms.log_weight, per_word.sum(1) + rest)
    assert terms.log_weight.shape == (particles, rows)


def test_a_word_plate_below_a_component_per_datum():
    """Exact to 1e-9: c per datum, its words summed before the sum over c."""
    x, loc = torch.randn(3, 5), torch.tensor([-1.0, 2.0])

    def model(x=None):
        with pyro.plate("data", 5, dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])))
            with pyro.plate("words", 3, dim=-2):
                pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x)

    terms = score(model, lambda x: None, {"x": x}, plates=2, enumerated=("c",), particles=2)
    each = dist.Normal(loc, 1.0).log_prob(x.unsqueeze(-1)).sum(0) + torch.tensor([0.3, 0.7]).log()
    close(terms.log_weight, each.logsumexp(-1).expand(2, 5))


def test_impossible_components_leave_no_nan():
    """A component of probability 0 in prior and likelihood changes neither value nor gradient."""
    free = torch.zeros(3, requires_grad=True)

    def model(x=None):
        with pyro.plate("data", 2, dim=-1):
            off = torch.tensor([0.0, 0.0, -torch.inf])
            c = pyro.sample("c", dist.Categorical(logits=free.log_softmax(-1) + off, validate_args=False))
            pyro.factor("never", off[c])
            pyro.sample("x", dist.Normal(c + free[0], 1.0), obs=x)

    terms = score(model, lambda x: None, {"x": torch.zeros(2)}, enumerated=("c",))
    assert torch.isfinite(terms.log_weight).all()
    assert torch.isfinite(sum(s.log_ratio for s in terms.sites.values())).all()
    (1e3 * terms.log_weight.sum()).backward()
    assert torch.isfinite(free.grad).all()


def test_a_scored_latent_below_an_enumerated_one_is_refused():
    def both(guide, x):
        with pyro.plate("data", 2, dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
            d = pyro.sample("d", dist.Bernoulli(0.2 + 0.5 * c))
            if not guide:
                pyro.sample("x", dist.Normal(c + d, 1.0), obs=x)

    run = {
        "model": lambda x: both(False, x),
        "guide": lambda x: both(True, x),
        "batch": {"x": torch.zeros(2)},
    }
    with pytest.raises(PairError, match="latent 'd' is drawn given 'c', which the guide enumerates"):
        score(**run, enumerated=("c",))
    assert score(**run, enumerated=("c", "d")).expected == ("c", "d")


def test_what_cannot_be_summed_is_refused():
    """Enumerated sites in different plates, and one outside the data plate."""

    def model(x=None):
        with pyro.plate("data", 2, dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
            with pyro.plate("words", 3, dim=-2):
                d = pyro.sample("d", dist.Bernoulli(0.2 + 0.5 * c))
                pyro.sample("x", dist.Normal(d, 1.0), obs=x)

    with pytest.raises(PairError, match="different plates or outside the data plate"):
        score(model, lambda x: None, {"x": torch.zeros(3, 2)}, plates=2, enumerated=("c", "d"))

    def outside(x=None):
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
        with pyro.plate("data", 2, dim=-1):
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    with pytest.raises(PairError, match="outside the data plate"):
        score(outside, lambda x: None, {"x": torch.zeros(2)}, enumerated=("c",))


def test_factors_reduce_to_rows():
    """A local factor keeps the data dim, a global one only the particles."""
    x = torch.arange(24.0).reshape(2, 3, 4)
    log_p, _ = contract(
        {"a": Factor(x, frozenset({-2}), True, None), "b": Factor(x, frozenset(), False, None)}, {}, (), (), 2
    )
    close(log_p["a"], x.sum(1))
    close(log_p["b"], x.sum((1, 2)))


# Masks, scales, and what is no sum.


def padded(where: str, masked: str, mask, loc, logits, probe):
    """z per datum, c and x per word, of which some are padding; (model, guide), c summed in one of them."""
    words, rows = mask.shape
    over_c = mask if masked != "x" else True
    over_x = mask if masked != "c" else True

    def model(x):
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("words", words, dim=-2):
                with poutine.mask(mask=over_c):
                    c = pyro.sample("c", dist.Categorical(logits=logits))
                with poutine.mask(mask=over_x):
                    pyro.sample("x", dist.Normal(loc[c] + z, 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", rows, dim=-1):
            pyro.sample("z", dist.Normal(x.mean(0), 0.8))
            if where == "guide":
                with pyro.plate("words", words, dim=-2), poutine.mask(mask=over_c):
                    pyro.sample("c", dist.Categorical(logits=probe))

    return model, guide


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("masked", ["both", "c", "x"])
@pytest.mark.parametrize("where", ["model", "guide"])
def test_padded_words_equal_pyros(where, masked, particles):
    """Exact to 1e-9, value and gradient, one seed: TraceEnum_ELBO on padded words, that is with a mask on c,
    on x, or on both."""
    x, mask = torch.randn(4, 5), torch.rand(4, 5) < 0.6
    leaves = [torch.randn(*shape, requires_grad=True) for shape in ((3,), (3,), (4, 5, 3))]
    model, guide = padded(where, masked, mask, *leaves)
    used = leaves if where == "guide" else leaves[:2]
    ours = AsPyro(ELBO(particles=particles), plates=2, enumerated=("c",))
    theirs = TraceEnum_ELBO(particles, max_plate_nesting=2, vectorize_particles=particles > 1)

    def parallel(fn):
        def config(site) -> Any:
            return {"enumerate": "parallel"} if site["name"] == "c" else {}

        return poutine.infer_config(fn, config)

    torch.manual_seed(1)
    wanted = theirs.differentiable_loss(parallel(model), parallel(guide), x)
    torch.manual_seed(1)
    found = ours.differentiable_loss(model, guide, x)
    close(found, wanted)
    for mine, pyros in zip(torch.autograd.grad(found, used), torch.autograd.grad(wanted, used), strict=True):
        close(mine, pyros)


def padded_words(x=None, *, mask=None, n=None):
    rows = len(mask) if x is None else len(x)
    with pyro.plate("data", rows, dim=-1), pyro.plate("words", 4, dim=-2), poutine.mask(mask=mask.T):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        pyro.sample("x", dist.Normal(2.0 * c, 1.0), obs=None if x is None else x.T)


def no_guide(x, *, mask=None, n=None):
    """Proposes nothing."""


def test_padding_does_not_lift_a_bound_above_the_evidence():
    """Exact to 1e-9: with nothing left to draw, elbo, iwae and importance sampling are the log evidence of
    the words that are there."""
    batch = {"x": torch.randn(6, 4), "mask": torch.arange(4) < torch.arange(6).unsqueeze(-1)}
    each = dist.Normal(2.0 * torch.arange(3), 1.0).log_prob(batch["x"].unsqueeze(-1))
    each = (each + torch.tensor([0.2, 0.3, 0.5]).log()).logsumexp(-1)
    evidence = (each * batch["mask"]).sum(-1)
    pair = Pair(
        model=padded_words,
        guide=no_guide,
        data=None,
        plates=2,
        conditions=("mask",),
        discrete={"c": "enumerate"},
    )
    built = build(pair)
    for estimator in (ELBO(), AnalyticKL(), IWAE(particles=2), IWAE(particles=5)):
        close(estimator.estimate(built, batch).bound, evidence)
    close(log_likelihood(built, batch, 10), evidence)


@pytest.mark.parametrize("where", ["model", "guide"])
@pytest.mark.parametrize("scaled", ["c", "x", "plate"])
def test_a_scale_beside_enumeration_is_refused(scaled, where):
    """A scale inside a sum over c is another bound's, as in Pyro it stands outside; one on a site that does
    not depend on c is as good as ever."""

    def scale_of(name):
        return poutine.scale(scale=0.5 if scaled == name else 1.0)

    def both(guide, x=None):
        with pyro.plate("data", 3, dim=-1):
            with scale_of("z"):
                pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("words", 4 if scaled == "plate" else 2, subsample=torch.arange(2), dim=-2):
                if where == "guide" or not guide:
                    with scale_of("c"):
                        c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.8])))
                if not guide:
                    with scale_of("x"):
                        pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def run():
        return score(
            lambda x: both(False, x),
            lambda x: both(True),
            {"x": torch.ones(2, 3)},
            plates=2,
            enumerated=("c",),
        )

    with pytest.raises(PairError, match=r"carries a scale and depends on .* or use pyro:TraceEnum_ELBO"):
        run()
    scaled = "z"
    assert run().scaled == ("z",)


@pytest.mark.parametrize("where", ["model", "guide"])
def test_enumeration_by_draws_is_refused(where):
    """num_samples=4 are four draws, not the support: summed, they would be no expectation."""
    infer = {"enumerate": "parallel", "num_samples": 4}

    def both(guide, x=None):
        with pyro.plate("data", 3, dim=-1):
            if where == "guide" or not guide:
                c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.8])), infer=infer)
            if not guide:
                pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    with pytest.raises(PairError, match=r"'c' is enumerated by num_samples=4 draws.* pyro:TraceTMC_ELBO"):
        score(lambda x: both(False, x), lambda x: both(True), {"x": torch.ones(3)}, enumerated=("c",))


@pytest.mark.parametrize("particles", [1, 3])
def test_a_plate_may_be_called_particles(particles):
    """Exact to 1e-9: a user's plate called "particles" is a plate of words like any other."""
    x = torch.randn(6, 3)

    def model(x):
        with pyro.plate("data", 3, dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            with pyro.plate("particles", 6, dim=-2):
                pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    terms = score(model, lambda x: None, {"x": x}, plates=2, enumerated=("c",), particles=particles)
    each = dist.Normal(torch.arange(3.0), 1.0).log_prob(x.unsqueeze(-1)).sum(0)
    truth = (each + torch.tensor([0.2, 0.3, 0.5]).log()).logsumexp(-1)
    close(terms.log_weight, truth.expand(particles, 3))

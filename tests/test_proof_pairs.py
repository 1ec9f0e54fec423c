"""The proof that the core is general: six test-only pairs that need no edit of it."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false

import itertools
import sys
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch.distributions import kl_divergence

from ppvae import registry
from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import ELBO, IWAE, AnalyticKL
from ppvae.estimators.gradients import group_gradients
from tests.toys import assert_same, dataset, loss_and_gradients, pyro_loss_and_gradients

pytestmark = pytest.mark.usefixtures("float64")
FOLDER = Path(__file__).parent / "proof_pairs"
PAIRS = [
    "conditional_two_layer:PAIR",
    "sequence:PAIR",
    "mixture:PAIR",
    "mixture:IN_GUIDE",
    "regression:PAIR",
    "critic:PAIR",
    "undirected:PAIR",
    "undirected:SUMMED",
    "undirected:EXACT",
    "undirected:QUADRATIC",
]
REFUSED = {
    ("conditional_two_layer:PAIR", "AnalyticKL"): "one order of the latents",
    ("mixture:IN_GUIDE", "IWAE"): "'c', which the guide enumerates",
    ("regression:PAIR", "IWAE"): "global latents",
    ("undirected:PAIR", "IWAE"): "'s0' is drawn from a Bernoulli",
    ("undirected:SUMMED", "IWAE"): "'s0', which the guide enumerates",
}
ESTIMATORS = [
    ELBO(),
    ELBO(particles=3),
    AnalyticKL(),
    AnalyticKL(particles=3),
    IWAE(particles=1),
    IWAE(particles=4),
]
BY_CASE = [(place, estimator) for place in PAIRS for estimator in ESTIMATORS]


def make(place: str, **options):
    """(the module of the pair's file, the built pair, a batch)."""
    name, attribute = place.split(":")
    pair = registry.find(f"{FOLDER / name}.py:{attribute}")
    module = sys.modules[pair.model.__module__]
    batch = module.data()
    return module, build(pair, dataset(batch) if batch else None, **options), batch


def label(value):
    return value if isinstance(value, str) else f"{type(value).__name__}{value.particles}"


def test_every_proof_pair_is_in_the_table():
    found = {path.stem for path in FOLDER.glob("*.py")}
    assert found == {place.split(":")[0] for place in PAIRS}


@pytest.mark.parametrize(("place", "estimator"), BY_CASE, ids=label)
def test_runs_or_is_refused_with_the_reason(place, estimator):
    _, built, batch = make(place)
    reason = REFUSED.get((place, type(estimator).__name__))
    if reason:
        with pytest.raises(PairError, match=reason):
            estimator(built)(batch)
        return
    terms = built.score(batch, estimator.particles)
    assert terms.log_weight.shape == (estimator.particles, terms.rows)
    bound = estimator.estimate(built, batch).bound
    assert bound.shape == (terms.rows,)
    moved = set()
    for seed in range(5):  # a sum of spins may be exactly zero
        loss, found = loss_and_gradients(estimator, built, batch, seed)
        assert loss.shape == ()
        assert torch.isfinite(loss)
        moved |= {name for name, g in found.items() if g.abs().sum() > 0}
    assert moved == set(dict(built.named_parameters()))


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(
    "place", ["conditional_two_layer:PAIR", "sequence:PAIR", "regression:PAIR", "undirected:QUADRATIC"]
)
def test_elbo_is_pyros_in_value_and_gradient(place, particles):
    """Exact to 1e-9: Trace_ELBO under the same seed is ours times the rows (all N data: the batch is
    full)."""
    _, built, batch = make(place)
    rows = len(next(iter(batch.values()))) if batch else 1
    theirs = Trace_ELBO(
        num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=built.pair.plates
    )
    value, wanted = pyro_loss_and_gradients(theirs, built, batch)
    loss, found = loss_and_gradients(ELBO(particles=particles), built, batch)
    assert loss * rows == pytest.approx(value, rel=1e-9)
    assert_same(found, wanted, rows)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(
    "place", ["mixture:PAIR", "mixture:IN_GUIDE", "undirected:SUMMED", "undirected:EXACT"]
)
def test_enumeration_is_pyros_in_value_and_gradient(place, particles):
    """Exact to 1e-9: TraceEnum_ELBO under the same seed is ours times the rows."""
    _, built, batch = make(place)
    rows = len(next(iter(batch.values()))) if batch else 1
    theirs = TraceEnum_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    run_model, run_guide = built.run_model, built.run_guide
    names = set(built.pair.discrete)
    built.run_model, built.run_guide = parallel(run_model, names), parallel(run_guide, names)
    value, wanted = pyro_loss_and_gradients(theirs, built, batch)
    built.run_model, built.run_guide = run_model, run_guide
    loss, found = loss_and_gradients(ELBO(particles=particles), built, batch)
    assert loss * rows == pytest.approx(value, rel=1e-9)
    assert_same(found, wanted, rows)


def parallel(fn, names):
    def config(site) -> Any:
        return {"enumerate": "parallel"} if site["name"] in names else {}

    return poutine.infer_config(fn, config)


def test_two_layers_by_hand():
    """Exact to 1e-9: the log weight of each datum and particle is the sum of four normal log-densities."""
    _, built, batch = make("conditional_two_layer:PAIR")
    terms = built.score(batch, 4)
    m, g, x, y = built.model, built.guide, batch["x"], batch["y"]
    z1, z2 = terms.sites["z1"].value.squeeze(-3), terms.sites["z2"].value.squeeze(-3)
    one_hot = torch.nn.functional.one_hot(y, 3).to(x.dtype)
    normal = lambda value, loc, scale: dist.Normal(loc, scale).log_prob(value).sum(-1)  # noqa: E731
    loc1, raw1 = g.first(torch.cat([x, one_hot], -1)).chunk(2, -1)
    loc2, raw2 = g.second(torch.cat([z1, one_hot.expand(4, -1, -1)], -1)).chunk(2, -1)
    wanted = {
        "z2": normal(z2, torch.zeros(2), torch.ones(2)) - normal(z2, loc2, raw2.exp()),
        "z1": normal(z1, m.up(z2) + m.shift1(y), m.scale1) - normal(z1, loc1, raw1.exp()),
        "x": normal(x, m.out(z1) + m.shift0(y), m.scale0),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(terms.sites[name].log_ratio, value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(terms.log_weight, sum(wanted.values()), rtol=1e-9, atol=1e-9)


def test_a_missing_condition_is_named():
    _, built, batch = make("conditional_two_layer:PAIR")
    with pytest.raises(PairError, match="condition 'y' is missing"):
        built.score({"x": batch["x"]})


def test_only_real_tokens_are_scored():
    """Exact: what stands at a padded or masked place changes no score, and the hand sum over real tokens is
    ours."""
    module, built, batch = make("sequence:PAIR")
    seen = module.real(len(batch["x"]), batch["lengths"], batch["mask"])
    other = {**batch, "x": torch.where(seen.T, batch["x"], (batch["x"] + 1) % module.SYMBOLS)}
    torch.manual_seed(3)
    first = built.score(batch, 2)
    torch.manual_seed(3)
    second = built.score(other, 2)
    assert torch.equal(first.log_weight, second.log_weight)
    z, s = first.sites["z"].value.reshape(2, 12, 2), first.sites["s"].value
    wanted, rate = torch.zeros(2, 12), torch.zeros(2, 12)
    for k, b, t in itertools.product(range(2), range(12), range(module.STEPS)):
        if seen[t, b]:
            m = built.model
            logits = m.position[t, 0] + m.out(z[k, b]) + s[k, t, b] * m.direction
            wanted[k, b] += dist.Categorical(logits=logits).log_prob(batch["x"][b, t])
            rate[k, b] += dist.Normal(m.drift(z[k, b])[0], 1.0).log_prob(s[k, t, b])
            g = built.guide.token(batch["x"][b, t])
            rate[k, b] -= dist.Normal(g[4] + 0.5 * z[k, b].sum(), g[5].exp()).log_prob(s[k, t, b])
    torch.testing.assert_close(first.log_likelihood, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(first.sites["s"].log_ratio, rate, rtol=1e-9, atol=1e-9)


def test_analytic_kl_of_a_masked_site_counts_real_tokens_only():
    """Exact to 1e-9: the KL of s summed over the real tokens of each datum."""
    module, built, batch = make("sequence:PAIR")
    seen = module.real(12, batch["lengths"], batch["mask"])
    terms = built.score(batch, 2)
    z = terms.sites["z"].value.reshape(2, 1, 12, 2)
    tokens = built.guide.token(batch["x"].T) * seen.unsqueeze(-1)
    q = dist.Normal(tokens[..., 4] + 0.5 * z.sum(-1), tokens[..., 5].exp())
    p = dist.Normal(built.model.drift(z).squeeze(-1), 1.0)
    wanted = (kl_divergence(q, p) * seen).sum(-2)
    torch.testing.assert_close(terms.sites["s"].analytic_kl(), wanted, rtol=1e-9, atol=1e-9)


def posterior_of(module, batch):
    x, y, noise = batch["x"], batch["y"], module.NOISE
    precision = torch.eye(module.SIZE) + x.T @ x / noise**2
    return dist.MultivariateNormal(
        torch.linalg.solve(precision, x.T @ y / noise**2), precision_matrix=precision
    )


def test_global_evidence_is_elbo_plus_kl():
    """log p(y | x) = N ELBO + KL(q, posterior), N = 24: 200,000 draws, seed 0, within 4 standard errors; the
    variance-free part, log w of each draw, is held to 1e-9 by log p(y, w) = log p(y) + log p(w | y)."""
    module, built, batch = make("regression:PAIR")
    q = dist.Normal(built.guide.loc, built.guide.scale).to_event(1)
    posterior = posterior_of(module, batch)
    terms = built.score(batch, 200_000)
    w = terms.sites["w"].value.squeeze(-2)
    joint = terms.log_weight.sum(1) + terms.log_global
    wanted = module.log_evidence(batch) + posterior.log_prob(w) - q.log_prob(w)
    torch.testing.assert_close(joint, wanted, rtol=1e-9, atol=1e-9)
    full = dist.MultivariateNormal(built.guide.loc, scale_tril=built.guide.scale.diag())
    truth = module.log_evidence(batch) - kl_divergence(full, posterior)
    error = joint.std() / len(joint) ** 0.5
    assert (joint.mean() - truth).abs() < 4 * error
    elbo = ELBO(particles=200_000).objective(terms, {}).bound
    torch.testing.assert_close(24 * elbo.mean(), joint.mean().detach(), rtol=1e-9, atol=1e-9)


def test_mini_batches_average_to_the_full_batch():
    """Exact to 1e-9: over a partition into equal batches, value and gradient average to those of all data."""
    _, built, batch = make("regression:PAIR")
    for estimator in (ELBO(), AnalyticKL()):
        loss, full = loss_and_gradients(estimator, built, batch, seed=5)
        parts = []
        for rows in torch.arange(24).split(6):
            parts.append(loss_and_gradients(estimator, built, {k: v[rows] for k, v in batch.items()}, seed=5))
        assert sum(part[0] for part in parts) / 4 == pytest.approx(float(loss), rel=1e-9)
        assert_same({n: sum(part[1][n] for part in parts) / 4 for n in full}, full)


def test_penalties_stay_outside_and_groups_follow_their_own_loss():
    """Exact to 1e-9: the bound has no penalty; the critic's gradient is that of its own loss, and no
    other's."""
    _, built, batch = make("critic:PAIR")
    terms = built.score(batch, 2)
    bare = ELBO(particles=2).objective(terms, {})
    assert set(terms.penalties) == {"l1", "recognized", "critic"}
    torch.testing.assert_close(terms.log_weight.mean(), -bare.losses["all"])
    torch.manual_seed(1)
    objective = ELBO(particles=2).estimate(built, batch)
    torch.manual_seed(1)
    terms = built.score(batch, 2)
    expected = -terms.log_weight.mean() + terms.penalties["l1"].value + terms.penalties["recognized"].value
    assert set(objective.losses) == {"all", "critic"}
    torch.testing.assert_close(objective.losses["all"], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(objective.bound, terms.log_weight.mean(0))
    found = {id(p): g for p, g in group_gradients(objective, built)}
    assert set(built.groups()) == {"model", "guide", "critic"}
    for group, members in built.groups().items():
        loss = terms.penalties["critic"].value if group == "critic" else expected
        wanted = torch.autograd.grad(loss, list(members.values()), retain_graph=True)
        for p, g in zip(members.values(), wanted, strict=True):
            torch.testing.assert_close(found[id(p)], g, rtol=1e-9, atol=1e-9)
    _, through_loss = loss_and_gradients(ELBO(particles=2), built, batch, seed=1)
    for name, p in built.named_parameters():
        torch.testing.assert_close(through_loss[name], found[id(p)], rtol=1e-9, atol=1e-9)


def test_mean_field_bounds_log_z():
    """Exact to 1e-9: enumerated under the guide, the bound is E_q[energy] + H(q) over the 16 states, below
    log Z; enumerated in the model it is log Z, and its gradient the mean sufficient statistics."""
    module, built, _ = make("undirected:SUMMED")
    s, energy = module.energies(built.model)
    q = dist.Bernoulli(logits=built.guide.logits)
    log_q = q.log_prob((s + 1) / 2).sum(1)
    wanted = (log_q.exp() * (energy - log_q)).sum()
    bound = ELBO().estimate(built, {}).bound
    assert bound == pytest.approx(float(wanted), rel=1e-9)
    assert bound < module.log_z(built.model)
    grads = torch.autograd.grad(-wanted, [built.guide.logits])
    _, found = loss_and_gradients(ELBO(), built, {})
    torch.testing.assert_close(found["guide.logits"], grads[0], rtol=1e-9, atol=1e-9)
    module, built, _ = make("undirected:EXACT")
    for estimator in (ELBO(), IWAE(particles=3)):
        loss, found = loss_and_gradients(estimator, built, {})
        assert -loss == pytest.approx(float(module.log_z(built.model)), rel=1e-9)
        wanted = torch.autograd.grad(module.log_z(built.model), [built.model.coupling, built.model.field])
        torch.testing.assert_close(-found["model.coupling"], wanted[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(-found["model.field"], wanted[1], rtol=1e-9, atol=1e-9)


def test_score_function_on_spins_is_unbiased():
    """40,000 draws, seed 0, mean within 4.5 standard errors of the enumerated gradient, in bound and
    gradient."""
    _, summed, _ = make("undirected:SUMMED")
    _, wanted = loss_and_gradients(ELBO(), summed, {})
    module, built, _ = make("undirected:PAIR")
    torch.manual_seed(0)
    # The particles of one call are averaged, so blocks of them are the independent draws.
    blocks = [
        torch.autograd.grad(ELBO(particles=400).estimate(built, {}).losses["all"], built.guide.logits)[0]
        for _ in range(100)
    ]
    draws = torch.stack(blocks)
    z = (draws.mean(0) - wanted["guide.logits"]) / (draws.std(0) / 10)
    assert z.abs().max() < 4.5
    assert len(z) == module.SPINS


def test_real_undirected_model_is_bounded_by_log_z():
    """IWAE with K = 50,000, seed 0, reaches the Gaussian log Z within .01; every ELBO draw's mean stays
    below it."""
    module, built, _ = make("undirected:QUADRATIC")
    torch.manual_seed(0)
    assert IWAE(particles=50_000).estimate(built, {}).bound == pytest.approx(
        float(module.log_z_quadratic()), abs=0.01
    )
    assert ELBO(particles=50_000).estimate(built, {}).bound < module.log_z_quadratic()

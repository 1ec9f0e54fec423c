"""What every pair promises, run over every pair that the registry finds."""

import math
import re

import pyro
import pyro.infer
import pytest
import torch
from pyro.optim import Adam  # type: ignore[attr-defined]

import ppvae.data
from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import ELBO, IWAE, AnalyticKL
from ppvae.evaluation import evaluate, mean_terms
from ppvae.linter import check
from ppvae.registry import find, names
from ppvae.tracing import sample_sites

ROWS = 6


@pytest.fixture(scope="module")
def datasets():
    found = {}

    def get(name):
        if name not in found:
            found[name] = ppvae.data.load(name)
        return found[name]

    return get


@pytest.fixture(params=names())
def case(request, datasets):
    """(built pair, one batch, its data set)"""
    pair = find(request.param)
    dataset = datasets(pair.data)
    built = build(pair, dataset, seed=0)
    batch = dataset.train.batch(torch.arange(ROWS))
    if any(v.dtype == torch.float64 for v in batch.values()):
        built.double()
    return built, batch, dataset


def test_the_linter_finds_nothing_to_mend(case):
    built, _, dataset = case
    report = check(built.pair, dataset)
    assert report.ok, [str(f) for f in report.findings]


@pytest.mark.parametrize("particles", [1, 3])
def test_terms_have_shape_particles_by_data(case, particles):
    built, batch, _ = case
    terms = built.score(batch, particles)
    assert terms.log_weight.shape == (particles, ROWS)
    assert torch.isfinite(terms.log_weight).all()


@pytest.mark.parametrize("estimator", [ELBO(2), AnalyticKL(2), IWAE(3)], ids=lambda e: type(e).__name__)
def test_every_estimator_reaches_every_parameter_or_refuses(case, estimator):
    built, batch, _ = case
    terms = built.score(batch, estimator.particles)
    try:
        estimator.refuse(terms)
    except PairError as refusal:
        with pytest.raises(PairError, match=re.escape(str(refusal))):
            estimator(built)(batch)
        return
    estimator(built)(batch).backward()
    for name, parameter in built.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_rows_do_not_depend_on_their_neighbours(case):
    """Reversing the batch reverses the log-likelihood given the same latents, row by row."""
    built, batch, _ = case
    built.eval()
    with built.local(), torch.no_grad():
        guide = pyro.poutine.trace(built.run_guide).get_trace(**built.inputs(batch))
        latents = {n: s["value"] for n, s in sample_sites(guide).items()}
        conditioned = pyro.condition(built.run_model, data=latents)
        model = pyro.poutine.trace(conditioned).get_trace(**built.inputs(batch))
        # What the model alone has, and sums out, is drawn here once.
        latents |= {n: s["value"] for n, s in sample_sites(model).items() if n not in built.pair.observed}
        log_p = [_log_p(built, b, z) for b, z in ((batch, latents), (_reversed(batch), _reversed(latents)))]
    torch.testing.assert_close(log_p[0], log_p[1].flip(0))


def _reversed(tensors):
    return {name: value.flip(0) for name, value in tensors.items()}


def _log_p(built, batch, latents):
    conditioned = pyro.condition(built.run_model, data=latents)
    trace = pyro.poutine.trace(conditioned).get_trace(**built.inputs(batch))
    return torch.stack([s["fn"].log_prob(s["value"]) for s in sample_sites(trace).values()]).sum(0)


def test_the_model_draws_what_it_scores(case):
    built, batch, dataset = case
    conditions = {name: batch[name] for name in built.pair.conditions}
    with built.local(), torch.no_grad():
        drawn = pyro.poutine.trace(built.run_model).get_trace(n=ROWS, **conditions)
    for name in built.pair.observed:
        site = drawn.nodes[name]
        assert site["value"].shape == (ROWS, *dataset.shapes[name])
        assert torch.isfinite(site["fn"].log_prob(site["value"])).all()


def test_one_seed_builds_one_pair_and_two_fits_share_nothing(case):
    built, _, dataset = case
    again = build(built.pair, dataset, seed=0).to(next(built.parameters()).dtype)
    other = build(built.pair, dataset, seed=1).to(next(built.parameters()).dtype)
    for (name, a), b, c in zip(built.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.data_ptr() not in (b.data_ptr(), c.data_ptr()), name
    pairs = zip(built.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_stock_svi_and_predictive_run_on_it_unchanged(case):
    built, batch, _ = case
    inputs = built.inputs(batch)
    with pyro.get_param_store().scope():
        elbo = pyro.infer.Trace_ELBO(max_plate_nesting=built.pair.plates)
        svi = pyro.infer.SVI(built.run_model, built.run_guide, Adam({"lr": 1e-3}), elbo)
        assert math.isfinite(float(svi.step(**inputs)))  # type: ignore[arg-type]
        predictive = pyro.infer.Predictive(built.run_model, guide=built.run_guide, num_samples=2)
        drawn = predictive(**inputs)
    assert drawn


def test_evaluating_changes_nothing_and_says_why_what_is_undefined_is(case):
    built, _, dataset = case
    small = ppvae.data.load(
        {"train": dataset.train.batch(torch.arange(ROWS)), "test": dataset.train.batch(torch.arange(8))}
    )
    before = {name: t.clone() for name, t in built.state_dict().items()}
    state = torch.get_rng_state()
    results = evaluate(built, small, k=7, n=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert built.training
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for key in ("elbo", "log_likelihood", "rate", "distortion", "active_units", "bits_per_dim"):
        assert results[key] is not None or results["reasons"][key], key
        if key != "active_units":
            assert f"{key}_stderr" in results


def test_validation_is_the_same_twice(case):
    built, _, dataset = case
    split = dataset.train.subset(torch.arange(ROWS))
    assert mean_terms(built, split, seed=3) == mean_terms(built, split, seed=3)


def test_importing_a_pair_builds_nothing(case):
    built, _, _ = case
    assert not isinstance(built.pair.model, torch.nn.Module)
    assert not isinstance(built.pair.guide, torch.nn.Module)
    assert built.pair.reference
    assert built.pair.latent

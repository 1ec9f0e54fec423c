"""The evaluator: laws on pPCA in float64, what `evaluation.json` holds, and what is left untouched."""

import copy
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae
from ppvae import registry
from ppvae.build import build
from ppvae.data import Dataset, Split, load
from ppvae.errors import DataError, UsageError
from ppvae.evaluation import evaluate, evaluating, importance, log_likelihood, mean_terms
from ppvae.evaluation.means import batches, per_datum
from ppvae.evaluation.units import active_units
from ppvae.pair import Pair
from tests.toys import MLP, MLP_VAE, Encoder, bits

PROOFS = Path(__file__).parent / "proof_pairs"
EVALUATE = sys.modules["ppvae.evaluation.evaluate"]  # the package has the function under this name
ESTIMATES = ("elbo", "log_likelihood", "rate", "distortion", "bits_per_dim")


@pytest.fixture(scope="module")
def toy():
    """100 data of ppca_toy in each split, float64."""
    whole = load("ppca_toy")
    assert whole.test is not None
    split = whole.train.subset(torch.arange(100))
    return dataclasses.replace(whole, train=split, valid=None, test=whole.test.subset(torch.arange(100)))


@pytest.fixture(scope="module")
def exact(toy):
    return build(registry.find("ppca"), toy, seed=1)


@pytest.fixture(scope="module")
def mean_field(toy):
    """Trained a little, so that weights are well behaved and yet there is a gap."""
    options: dict[str, Any] = {"epochs": 40, "batch": 100, "lr": 0.03, "check": False, "progress": False}
    return ppvae.fit("ppca_mean_field", toy, **options).built


def evidence(built, split):
    with torch.no_grad():
        return built.pair.evidence(built.model, split.batch(torch.arange(len(split))))


# ---- laws


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("chunk", [1, 40, 2**21])
def test_with_the_exact_guide_all_numbers_are_the_evidence(exact, toy, k, chunk, monkeypatch):
    """To 1e-9, for every K and every way to cut the particles and data into chunks."""
    monkeypatch.setitem(importance.CHUNK_ELEMENTS, "cpu", chunk)
    wanted = evidence(exact, toy.test)
    n = 100 if chunk > 40 else 8
    results = evaluate(exact, toy, k=k, n=n)
    assert results["elbo"] == pytest.approx(float(wanted.mean()), abs=1e-9)
    assert results["elbo_stderr"] == pytest.approx(float(wanted.std()) / 10, abs=1e-9)
    if n == 100:
        assert results["log_likelihood"] == pytest.approx(float(wanted.mean()), abs=1e-9)
        assert results["log_likelihood_stderr"] == pytest.approx(float(wanted.std()) / 10, abs=1e-9)
    with evaluating(exact, 0):
        batch = toy.test.batch(torch.arange(n))
        torch.testing.assert_close(log_likelihood(exact, batch, k), wanted[:n], rtol=0, atol=1e-9)


def test_chunked_is_unchunked_in_distribution(mean_field, toy, monkeypatch):
    """100 estimates of each kind for 4 data at K = 6, in chunks of 1, of 4 (4 + 2) and of all: their means
    agree within 4 standard errors of the difference (seeds 0 to 99)."""
    batch = toy.test.batch(torch.arange(4))

    def estimates(chunk):
        monkeypatch.setitem(importance.CHUNK_ELEMENTS, "cpu", chunk)
        found = []
        for seed in range(100):
            with evaluating(mean_field, seed):
                found.append(log_likelihood(mean_field, batch, 6))
        return torch.stack(found)

    whole = estimates(10**9)
    for chunk in (1, 4 * 4 * 10):
        part = estimates(chunk)
        error = ((part.var(0) + whole.var(0)) / 100).sqrt()
        assert ((part.mean(0) - whole.mean(0)).abs() < 4 * error).all()
        assert (whole.std(0) > 1e-3).all()  # there is something to tell apart


def test_bounds_tighten_with_k_up_to_the_evidence(mean_field, toy):
    """IS(1) <= IS(10) <= IS(500) <= evidence, each within 3 standard errors; seed 0, all 100 data. The errors
    are those of the paired differences, since data vary more than draws do."""
    wanted = evidence(mean_field, toy.test)
    batch = toy.test.batch(torch.arange(100))
    values = []
    for k in (1, 10, 500):
        with evaluating(mean_field, 0):
            values.append(log_likelihood(mean_field, batch, k))
    steps = [b - a for a, b in zip(values, [*values[1:], wanted], strict=True)]
    for step in steps:
        assert step.mean() > -3 * step.std() / 10
    assert steps[0].mean() > 3 * steps[0].std() / 10  # and the first is a real one
    results = evaluate(mean_field, toy, k=500, n=100)
    assert results["elbo"] < results["log_likelihood"] + 3 * float((wanted - values[0]).std()) / 10
    assert results["log_likelihood"] == pytest.approx(
        float(wanted.mean()), abs=3 * float(steps[-1].std()) / 10 + 0.01
    )


def test_the_numbers_are_those_of_numpy(mean_field, toy):
    """Means and standard errors to 1e-9, over batches of unequal size."""
    results = mean_terms(mean_field, toy.test, seed=3, rows=33)
    seen = {}
    with evaluating(mean_field, 3):
        for batch in batches(mean_field, toy.test, 33):
            for name, vector in per_datum(mean_field.score(batch, 1)).items():
                seen.setdefault(name, []).append(vector.numpy())
    assert set(seen) == {"elbo", "rate", "distortion", "rate/z", "distortion/x"}
    for name, parts in seen.items():
        values = np.concatenate(parts)
        assert len(values) == 100
        assert results[name] == pytest.approx(values.mean(), abs=1e-9)
        assert results[f"{name}_stderr"] == pytest.approx(values.std(ddof=1) / 10, abs=1e-9)


def test_a_standard_error_survives_a_large_mean():
    """Values 1e8 + {0, 1}: squares about zero would lose every digit."""
    from ppvae.evaluation.means import _Sums

    values = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    sums = _Sums()
    sums.add({"a": 1e8 + values[:2]})
    sums.add({"a": 1e8 + values[2:]})
    assert sums.means()["a_stderr"] == pytest.approx(float(values.std()) / math.sqrt(5), rel=1e-6)


def test_rate_and_distortion_add_up_to_minus_the_elbo(mean_field, toy):
    results = evaluate(mean_field, toy, k=2, n=5)
    assert results["rate"] + results["distortion"] == pytest.approx(-results["elbo"], abs=1e-9)
    sites = results["sites"]
    assert set(sites) == {"z", "x"}
    assert sites["z"]["rate"] == pytest.approx(results["rate"], abs=1e-9)
    assert sites["x"]["distortion"] == pytest.approx(results["distortion"], abs=1e-9)
    assert sites["z"]["active_units"] == results["active_units"] == 3


@pytest.mark.parametrize("place", ["conditional_two_layer:PAIR", "sequence:PAIR"])
def test_the_sites_of_several_layers_add_up(place):
    """To 1e-6 in float32."""
    _, built, data = proof(place)
    results = evaluate(built, data, k=3, n=10)
    rates = [site["rate"] for site in results["sites"].values() if "rate" in site]
    assert len(rates) == 2
    assert sum(rates) == pytest.approx(results["rate"], abs=1e-5)
    assert results["rate"] + results["distortion"] == pytest.approx(-results["elbo"], abs=1e-5)


def proof(place):
    name, attribute = place.split(":")
    pair = registry.find(f"{PROOFS / name}.py:{attribute}")
    batch = sys.modules[pair.model.__module__].data()  # type: ignore[union-attr]
    data = Dataset(name=name, train=Split(batch), test=Split(batch))
    return pair, build(pair, data), data


# ---- active units


class TwoOfFive(PyroModule):
    """q's means move with x in the dimensions 1 and 4: by 2 x and by x; in 2 they move by 0.05 x, of variance
    below 0.01; dimension 0 has a constant, dimension 3 a wide scale, which does not count."""

    def __init__(self, model=None):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([0.0, 2.0, 0.05, 0.0, 1.0]))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            loc = 7.0 + x * self.factor
            pyro.sample("z", dist.Normal(loc, torch.tensor([1.0, 1.0, 1.0, 30.0, 0.01])).to_event(1))


def five(x=None, *, n=None):
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x)


def test_active_units_of_a_guide_with_two_of_five():
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    data = Dataset(name="line", train=Split({"x": x}), test=Split({"x": x}))
    built = build(Pair(model=five, guide=TwoOfFive, data=None), data)
    assert active_units(built, data.test, rows=70) == {"z": 2}
    results = evaluate(built, data, k=2, n=10)
    assert results["active_units"] == 2
    assert results["sites"]["z"]["active_units"] == 2


def test_a_discrete_latent_has_no_units():
    _, built, data = proof("mixture:PAIR")
    assert set(active_units(built, data.test)) == {"z"}


# ---- what is held, and what is undefined


KEYS = {"elbo", "log_likelihood", "k", "n", "rate", "distortion", "active_units", "seconds", "sites"}
KEYS |= {"binarization", "data_hash", "bits_per_dim", "reasons", "split", "n_elbo", "data", "seed", "units"}
KEYS |= {"k_curve", "k_hat", "effective_sample_size", "worst", "information"}


@pytest.fixture(scope="module")
def bytes8():
    """Pictures in bytes, with all three splits."""
    x = torch.randint(0, 256, (90, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    parts: Any = {
        name: Split({"x": x[i : i + 30]}, {"x": 255})
        for name, i in (("train", 0), ("valid", 30), ("test", 60))
    }
    return Dataset(name="bytes8", **parts)


def tiny(data, likelihood="bernoulli", **options):
    return build(registry.find("vae"), data, latent=2, hidden=[5], likelihood=likelihood, **options)


def test_the_keys_are_those_of_evaluation_json(bytes8):
    data = load(bytes8, binarization="static")
    results = evaluate(tiny(data), data, k=30, n=12)
    assert results.keys() == KEYS | {f"{name}_stderr" for name in ESTIMATES}
    assert (results["k"], results["n"], results["n_elbo"], results["split"]) == (30, 12, 30, "test")
    assert results["binarization"] == "static"
    assert results["data_hash"] == data.hash
    assert results["reasons"] == {}
    for name in ESTIMATES:
        assert math.isfinite(results[name])
        assert results[f"{name}_stderr"] > 0
    assert evaluate(tiny(data), data, k=5, n=1000)["n"] == 30  # not more than there are


@pytest.mark.parametrize(("likelihood", "levels"), [("bernoulli", 2), ("discretized_logistic", 256)])
def test_bits_per_dim(bytes8, likelihood, levels):
    """-log p(x) / (D log 2) with D = 16 entries."""
    data = load(bytes8, binarization="static") if levels == 2 else bytes8
    results = evaluate(tiny(data, likelihood), data, k=5, n=30)
    scale = 16 * math.log(2)
    assert results["bits_per_dim"] == pytest.approx(-results["log_likelihood"] / scale, rel=1e-12)
    assert results["bits_per_dim_stderr"] == pytest.approx(
        results["log_likelihood_stderr"] / scale, rel=1e-12
    )


def test_a_uniform_model_has_log2_of_the_levels_in_bits(bytes8):
    """logits of 0: one bit for each bit."""
    data = load(bytes8, binarization="static")
    built = tiny(data)
    for parameter in built.model.parameters():  # type: ignore[union-attr]
        parameter.data.zero_()
    for parameter in built.guide.parameters():  # type: ignore[union-attr]
        parameter.data.zero_()
    assert evaluate(built, data, k=1, n=30)["distortion"] == pytest.approx(16 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("likelihood", ["gaussian", "continuous_bernoulli"])
def test_a_density_has_no_bits(bytes8, likelihood):
    results = evaluate(tiny(bytes8, likelihood), bytes8, k=30, n=5)
    assert results["bits_per_dim"] is None
    assert results["bits_per_dim_stderr"] is None
    assert results["reasons"] == {"bits_per_dim": "the likelihood is continuous: a density has no bits"}


def test_continuous_data_have_no_bits(exact, toy):
    assert "the data are continuous" in evaluate(exact, toy, k=2, n=5)["reasons"]["bits_per_dim"]


def test_missing_values_have_no_bits_per_dim():
    x = torch.rand(30, 6).round()
    fields = {"x": x, "mask": torch.ones(30, 6, dtype=torch.bool)}
    data = Dataset(name="masked", train=Split(fields, {"x": 1}), test=Split(fields, {"x": 1}))
    results = evaluate(build(registry.find("vae"), data, hidden=[4]), data, k=30, n=5)
    assert results["reasons"] == {"bits_per_dim": "the data differ in how many entries they have"}


def test_global_latents_have_an_elbo_and_no_likelihood_per_datum():
    """The elbo holds the global part once, divided by N."""
    _, built, data = proof("regression:PAIR")
    results = evaluate(built, data, k=5, n=5)
    assert results["log_likelihood"] is results["log_likelihood_stderr"] is results["bits_per_dim"] is None
    assert "with global latents the weights are joint" in results["reasons"]["log_likelihood"]
    assert results["active_units"] is None
    assert "no continuous local latent" in results["reasons"]["active_units"]
    sites = results["sites"]
    assert -results["elbo"] == pytest.approx(sites["y"]["distortion"] + sites["w"]["rate"], abs=1e-5)


def test_a_pair_without_a_bound_has_neither_elbo_nor_likelihood(bytes8, monkeypatch):
    """And none is computed: importance sampling would take minutes for nothing."""
    monkeypatch.setattr(EVALUATE, "weigh", None)
    data = load(bytes8, binarization="static")
    built = build(registry.find("autoencoder"), data, latent=2, hidden=[5])
    results = evaluate(built, data, k=1000, n=1000)
    for name in ("elbo", "log_likelihood", "bits_per_dim", "rate"):
        assert results[name] is results[f"{name}_stderr"] is None
        assert "no bound on log p(x)" in results["reasons"][name]
    assert math.isfinite(results["distortion"])
    assert results["active_units"] == 2
    assert results["sites"]["z"]["rate"] is None


def test_one_datum_has_no_standard_error(exact, toy):
    one = dataclasses.replace(toy, test=toy.test.subset(torch.arange(1)))
    results = evaluate(exact, one, k=2, n=1)
    assert math.isfinite(results["elbo"])
    assert results["elbo_stderr"] is results["log_likelihood_stderr"] is results["rate_stderr"] is None


# ---- what is evaluated


def test_the_sample_is_shuffled_and_of_the_seed(exact, toy, monkeypatch):
    seen, weigh = [], EVALUATE.weigh
    monkeypatch.setattr(
        EVALUATE,
        "weigh",
        lambda built, split, *rest: seen.append(split.fields["x"]) or weigh(built, split, *rest),
    )
    for seed in (0, 0, 1):
        evaluate(exact, toy, k=1, n=20, seed=seed)
    rows = [{tuple(row) for row in x.tolist()} for x in seen]
    first = {tuple(row) for row in toy.test.fields["x"][:20].tolist()}
    assert [len(r) for r in rows] == [20, 20, 20]
    assert rows[0] == rows[1] != rows[2]
    assert first not in rows
    everything = {tuple(row) for row in toy.test.fields["x"].tolist()}
    assert rows[0] < everything


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_dynamic_data_are_evaluated_on_one_fixed_draw(bytes8, split):
    """Exactly what the data set's own `fixed` draws, whatever the seed of the evaluator."""
    data = load(bytes8, binarization="dynamic", seed=5)
    fixed = {name: data.fixed(name) for name in data.splits}
    static = dataclasses.replace(data, **fixed)
    built = tiny(data)
    for seed in (0, 1):
        found = evaluate(built, data, k=2, n=10, seed=seed, split=split)
        wanted = evaluate(built, static, k=2, n=10, seed=seed, split=split)
        assert {k: found[k] for k in ("elbo", "log_likelihood", "rate", "sites")} == {
            k: wanted[k] for k in ("elbo", "log_likelihood", "rate", "sites")
        }
        assert found["binarization"] == "dynamic"


def test_the_same_seed_gives_the_same_numbers(mean_field, toy):
    one, two, other = (evaluate(mean_field, toy, k=3, n=10, seed=seed) for seed in (0, 0, 1))
    for results in (one, two, other):
        del results["seconds"]
    assert one == two
    assert one["elbo"] != other["elbo"]


@pytest.mark.parametrize("options", [{"k": 0}, {"n": 0}, {"k": -3}])
def test_k_and_n_are_at_least_one(exact, toy, options):
    with pytest.raises(UsageError, match="use at least 1 of each"):
        evaluate(exact, toy, **options)


def test_a_split_that_is_missing_or_misspelt(exact, toy):
    with pytest.raises(
        DataError, match="'ppca_toy' has no valid data but train, test: evaluate on one of those"
    ):
        evaluate(exact, toy, split="valid")
    with pytest.raises(UsageError, match="no split 'tset', did you mean 'test'"):
        evaluate(exact, toy, split="tset")


# ---- what is left as it was


def test_evaluating_touches_nothing():
    """Parameters, BatchNorm's buffers, gradients, single training flags and random states: bit for bit."""

    class Normed(Encoder):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = nn.Sequential(
                nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4), nn.BatchNorm1d(4)
            )

    batch = bits(40)
    data = Dataset(name="toy", train=Split(batch), test=Split(batch))
    built = build(Pair(model=MLP, guide=Normed, data=None), data)
    built.train()
    built.guide.encoder[1].eval()  # a frozen norm among trained ones
    for parameter in built.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = copy.deepcopy(built.state_dict())
    grads = [p.grad.clone() for p in built.parameters() if p.grad is not None]
    flags = [module.training for module in built.modules()]
    required = [p.requires_grad for p in built.parameters()]
    state = torch.get_rng_state()
    pyro.enable_validation(True)
    results = evaluate(built, data, k=4, n=20)
    assert math.isfinite(results["log_likelihood"])
    for name, value in built.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(
        torch.equal(p.grad, g) for p, g in zip(built.parameters(), grads, strict=True) if p.grad is not None
    )
    assert [module.training for module in built.modules()] == flags
    assert [p.requires_grad for p in built.parameters()] == required
    assert torch.equal(torch.get_rng_state(), state)
    assert pyro.settings.get("validate_distributions_pyro")


def test_all_is_put_back_after_an_error():
    built = build(MLP_VAE)
    built.train()
    state = torch.get_rng_state()

    def failing():
        with evaluating(built, 0):
            torch.rand(3)
            assert not built.training
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert all(module.training for module in built.modules())
    assert torch.equal(torch.get_rng_state(), state)


# ---- memory


@pytest.mark.parametrize("name", ["vae", "ppca_mean_field"])
def test_many_particles_come_in_chunks(name, bytes8, monkeypatch):
    """K = 5000 for 30 data: no scoring has more than 2^21 numbers in the data or in the widest layer."""
    data = load(bytes8, binarization="static")
    sizes = {"latent": 2, "hidden": [700]} if name == "vae" else {}
    built = build(registry.find(name), data, **sizes)
    seen = []
    score = built.score

    def spy(batch, particles=1):
        width = 700 if name == "vae" else 16
        seen.append((len(batch["x"]) * particles, particles, width))
        small = {k: v[:1] for k, v in batch.items()}  # what is counted need not be computed
        terms = score(small, 1)
        terms.particles = particles
        for site in terms.sites.values():
            site.log_p = site.log_p.expand(particles, len(batch["x"]))
            site.log_q = None if site.log_q is None else site.log_q.expand(particles, len(batch["x"]))
        terms.rows = len(batch["x"])
        return terms

    monkeypatch.setattr(built, "score", spy)
    with evaluating(built, 0):
        log_likelihood(built, data.splits["test"].batch(torch.arange(30)), 5000)
    assert max(rows * width for rows, _, width in seen) <= 2**21
    assert sum(rows for rows, _, _ in seen) == 30 * 5000
    assert len(seen) > 1

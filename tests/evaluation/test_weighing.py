"""What evaluation.json says of the importance weights: the same draws for all, the worst data, and memory."""

import dataclasses
import json
import math
import sys
from typing import Any

import numpy as np
import pyro
import pytest
import torch

from ppvae import registry
from ppvae.build import build
from ppvae.data import Dataset, Split, load
from ppvae.errors import UsageError
from ppvae.evaluation import evaluate, evaluating, importance, log_likelihood, log_weights
from ppvae.evaluation.psis import effective_sample_size, psis
from ppvae.evaluation.summary import histogram, mean_and_stderr, quantiles
from ppvae.evaluation.weighing import WORST, Weighed, weigh, weighed_summary
from ppvae.evaluation_config import FURTHER, EvaluationConfig
from ppvae.runs import strict_json
from tests.toys import MLP_VAE, bits

WEIGHING = sys.modules["ppvae.evaluation.weighing"]


@pytest.fixture(scope="module")
def toy():
    return load("ppca_toy")


@pytest.fixture(scope="module")
def exact(toy):
    return build(registry.find("ppca"), toy, seed=1)


@pytest.fixture
def rough(float64):
    """A VAE that was never trained: weights of every kind of tail."""
    split = Split(bits(250))
    built = build(MLP_VAE, Dataset(name="b", train=split, test=split), seed=3)
    return built.double(), split


@pytest.mark.parametrize("chunk", [1, 100, 2**21])
def test_kept_weights_are_those_of_the_streamed_estimate(rough, chunk, monkeypatch):
    """For the same seed, to 1e-12, in whatever chunks."""
    monkeypatch.setitem(importance.CHUNK_ELEMENTS, "cpu", chunk)
    built, split = rough
    batch = split.batch(torch.arange(9))
    with evaluating(built, 4):
        streamed = log_likelihood(built, batch, 13)
    with evaluating(built, 4):
        kept = log_weights(built, batch, 13)
    assert kept.shape == (13, 9)
    torch.testing.assert_close(kept.logsumexp(0) - math.log(13), streamed, rtol=0, atol=1e-12)


def test_everything_is_read_off_the_same_weights(rough):
    """Of the seed, batch after batch of 100 data: the last point of the curve is the estimate, and k-hat and
    effective sample size are those of its weights."""
    built, split = rough
    found = weigh(built, split, 60, seed=5)
    with evaluating(built, 5):
        weights = torch.cat(
            [log_weights(built, split.batch(torch.arange(i, min(i + 100, 250))), 60) for i in (0, 100, 200)],
            1,
        )
    assert list(found.curve) == [1, 2, 5, 10, 20, 50, 60]
    torch.testing.assert_close(found.log_likelihood, weights.logsumexp(0) - math.log(60), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.curve[1], weights.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.k_hat, psis(weights).k_hat, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.effective_sample_size, effective_sample_size(weights))


def test_the_summary_is_that_of_numpy(rough):
    built, split = rough
    found = weigh(built, split, 60)
    results, reasons = weighed_summary(found, torch.arange(250))
    assert reasons == {}
    assert found.k_hat is not None
    k_hat, size = found.k_hat.numpy(), found.effective_sample_size.numpy()
    above = (k_hat > 0.7).astype(float)
    assert 0 < above.mean() < 1
    assert results["k_hat"]["share_above"] == pytest.approx(above.mean())
    assert results["k_hat"]["share_above_stderr"] == pytest.approx(above.std(ddof=1) / math.sqrt(250))
    assert sum(results["k_hat"]["histogram"]["counts"]) == 250
    assert results["effective_sample_size"]["mean"] == pytest.approx(size.mean())
    assert sum(results["effective_sample_size"]["histogram"]["counts"]) == 250
    assert results["log_likelihood"] == pytest.approx(float(found.log_likelihood.mean()))
    curve = results["k_curve"]
    assert [row["k"] for row in curve] == list(found.curve)
    below = (found.log_likelihood - found.curve[5]).numpy()
    assert curve[2]["below_last"] == pytest.approx(below.mean())
    assert curve[2]["below_last_stderr"] == pytest.approx(below.std(ddof=1) / math.sqrt(250))
    assert curve[-1]["below_last"] == curve[-1]["below_last_stderr"] == 0
    assert curve[0]["bound"] < curve[1]["bound"] < curve[3]["bound"] < curve[4]["bound"]


def test_the_worst_data_are_named_by_their_place_in_the_split(toy, exact):
    """log p(x) of each entry is the evidence of the datum at its place, to 1e-9."""
    results = evaluate(exact, toy, k=30, n=120, seed=3)
    batch = toy.test.batch(torch.arange(len(toy.test)))
    with torch.no_grad():
        evidence = exact.pair.evidence(exact.model, batch)
    assert len(results["worst"]) == WORST
    assert len({entry["index"] for entry in results["worst"]}) == WORST
    for entry in results["worst"]:
        assert entry["log_likelihood"] == pytest.approx(float(evidence[entry["index"]]), abs=1e-9)
        assert entry["k_hat"] == -math.inf
        assert entry["effective_sample_size"] == pytest.approx(30)
    assert max(entry["index"] for entry in results["worst"]) > 30  # not the first of the split


def test_the_worst_come_first():
    """Undefined, dominated, then by k-hat; among equals by effective sample size; at most sixteen."""
    k_hat = torch.tensor([0.1, 0.9, math.nan, math.inf, 0.9, -math.inf], dtype=torch.float64)
    size = torch.tensor([5.0, 4.0, 2.0, 1.0, 3.0, 9.0], dtype=torch.float64)
    log_p = torch.tensor([-1.0, -2.0, math.nan, -4.0, -5.0, -6.0], dtype=torch.float64)
    found = Weighed(30, {30: log_p}, k_hat, size)
    results, _ = weighed_summary(found, torch.arange(6) + 100)
    assert [entry["index"] for entry in results["worst"]] == [102, 103, 104, 101, 100, 105]
    assert results["worst"][0]["k_hat"] is None
    assert results["worst"][0]["log_likelihood"] is None
    assert results["k_hat"]["dominated"] == results["k_hat"]["undefined"] == results["k_hat"]["exact"] == 1
    assert results["k_hat"]["share_above"] == pytest.approx(3 / 5)
    results, reasons = weighed_summary(dataclasses.replace(found, k_hat=None), torch.arange(6))
    assert [entry["index"] for entry in results["worst"]] == [3, 2, 4, 1, 0, 5]
    assert results["k_hat"] is None
    assert "use k=21 or more" in reasons["k_hat"]
    many = Weighed(30, {30: torch.zeros(50)}, torch.arange(50.0), torch.ones(50))
    assert [e["index"] for e in weighed_summary(many, torch.arange(50))[0]["worst"]] == list(
        range(49, 33, -1)
    )


def test_an_exact_guide_has_no_tail(toy, exact):
    """Of every datum: k-hat -inf, the effective sample size K, and a curve that is level to 1e-9."""
    results = evaluate(exact, toy, k=100, n=80)
    assert results["k_hat"]["exact"] == 80
    assert results["k_hat"]["share_above"] == 0
    assert set(results["k_hat"]["quantiles"].values()) == {-math.inf}
    assert results["effective_sample_size"]["mean"] == pytest.approx(100)
    for row in results["k_curve"]:
        assert row["below_last"] == pytest.approx(0, abs=1e-9)


def test_what_is_written_can_be_read_back_and_compared(rough):
    """Strict JSON, without NaN, and the same for the same seed."""
    built, split = rough
    data = Dataset(name="b", train=split, test=split)
    one, two = (evaluate(built, data, k=40, n=50) for _ in range(2))
    for results in (one, two):
        del results["seconds"]
    assert one == two
    text = strict_json.dumps(one, "results")
    assert "NaN" not in text
    assert strict_json.loads(text) == one
    assert len(text) < 20_000
    json.loads(text)


def test_weights_are_kept_for_few_data_at_a_time(rough, monkeypatch):
    """K = 5,000 of 250 data with room for 40,000 numbers: 8 data at once, and never more than fit."""
    monkeypatch.setattr(WEIGHING, "KEPT", 40_000)
    seen = []

    def spy(built, batch, k):
        seen.append(len(batch["x"]))
        return torch.zeros(k, len(batch["x"]))

    monkeypatch.setattr(WEIGHING, "log_weights", spy)
    built, split = rough
    found = weigh(built, split, 5000)
    assert max(seen) * 5000 <= 40_000
    assert sum(seen) == 250
    assert found.log_likelihood.shape == (250,)
    monkeypatch.setattr(WEIGHING, "KEPT", 10)
    seen.clear()
    weigh(built, split.subset(torch.arange(3)), 5000)
    assert seen == [1, 1, 1]


def test_nothing_is_left_changed(rough):
    built, split = rough
    built.train()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    state = torch.get_rng_state()
    pyro.enable_validation(True)
    weigh(built, split, 25)
    assert built.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())


# ---- numbers in few


def test_histograms_have_round_edges_and_all_counts():
    values = torch.tensor([-0.31, 0.05, 0.69, 0.71, 1.25, math.inf, -math.inf, math.nan])
    found = histogram(values)
    assert found["edges"][0] == -0.4
    assert 0.5 in found["edges"]
    assert 0.7 in found["edges"]
    assert sum(found["counts"]) == 5
    assert np.histogram([-0.31, 0.05, 0.69, 0.71, 1.25], found["edges"])[0].tolist() == found["counts"]
    wide = histogram(torch.tensor([0.0, 50.0]))
    assert len(wide["counts"]) <= 61
    assert sum(wide["counts"]) == 2
    assert sum(histogram(torch.tensor([math.inf]))["counts"]) == 0
    assert sum(histogram(torch.tensor([0.3, 0.3]))["counts"]) == 2


def test_quantiles_are_data():
    """Infinities may be among them, NaN may not."""
    found = quantiles(torch.tensor([-math.inf, 1.0, 2.0, 3.0, math.inf, math.nan]))
    assert found == {"0.05": -math.inf, "0.25": 1.0, "0.5": 2.0, "0.75": 3.0, "0.95": math.inf}
    assert quantiles(torch.tensor([math.nan])) == {}


def test_one_datum_has_a_mean_and_no_error():
    assert mean_and_stderr(torch.tensor([3.0])) == (3.0, None)
    assert mean_and_stderr(torch.tensor([1.0, 3.0])) == (2.0, pytest.approx(1.0))


# ---- options


def test_options_are_checked():
    assert EvaluationConfig().further() == []
    assert EvaluationConfig(all=True).further() == list(FURTHER)
    assert EvaluationConfig(gaps=True).further() == ["gaps"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"k": 0}, "use at least 1 of each"),
        ({"k": "many"}, "k='many' does not fit: give a whole number"),
        ({"calibration_n": 19}, "calibration_n=19 is too small: use at least 20"),
        ({"split": "tset"}, "no split 'tset', did you mean 'test'"),
        ({"start": "Prior"}, "no start 'Prior', did you mean 'prior'"),
        ({"seed": 2**32}, "seed=4294967296 is too large"),
        ({"seed": -1}, "seed=-1 is too small"),
    ]
    for options, said in cases:
        with pytest.raises(UsageError, match=said):
            EvaluationConfig(**options)


def test_an_unknown_option_is_named(toy, exact):
    with pytest.raises(UsageError, match="no option 'calibraton', did you mean 'calibration'"):
        evaluate(exact, toy, calibraton=True)
    config = EvaluationConfig(k=30, n=9)
    assert evaluate(exact, toy, config, n=7)["n"] == 7
    assert evaluate(exact, toy, config)["n"] == 9

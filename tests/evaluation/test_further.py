"""What is measured on demand: of the same data as the rest, only when asked for, with reasons where it is
undefined."""

import dataclasses
import math
from typing import Any

import pytest
import torch

import ppvae
from ppvae import registry
from ppvae.build import build
from ppvae.data import Dataset, Split, load
from ppvae.evaluation import evaluate
from ppvae.evaluation_config import FURTHER
from ppvae.models.ppca import PPCA
from ppvae.reports import evaluation as report
from tests.toys import BernoulliGuide, bernoulli_model

FEW: dict[str, Any] = {
    "k": 50, "n": 12, "calibration_n": 40, "calibration_draws": 19, "ais_n": 6, "gaps_n": 5, "gaps_steps": 20,
    "rate_distortion_n": 4, "chains": 3, "temperatures": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def toy():
    return load("ppca_toy")


@pytest.fixture(scope="module")
def everything(toy):
    """Of the exact guide: every bound is the evidence."""
    stages = []
    built = build(registry.find("ppca"), toy, seed=1)
    results = evaluate(built, toy, all=True, **FEW, seed=2, on_stage=stages.append)
    order = torch.randperm(len(toy.test), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        evidence = built.pair.evidence(built.model, toy.test.batch(order[:12]))  # type: ignore[misc]
    return results, evidence, stages


def test_all_is_everything_and_says_where_it_is(everything):
    results, _, stages = everything
    assert set(FURTHER) <= results.keys()
    assert all(results[name] is not None for name in FURTHER)
    assert stages == ["elbo", "log p(x)", "information", "calibration", "ais", "gaps", "rate distortion"]


def test_only_what_is_asked_for_is_there(toy):
    built = build(registry.find("ppca"), toy, seed=1)
    assert not set(FURTHER) & evaluate(built, toy, **FEW).keys()
    assert set(FURTHER) & evaluate(built, toy, calibration=True, **FEW).keys() == {"calibration"}


def test_sizes_are_those_asked_for(everything):
    results = everything[0]
    assert (results["ais"]["n"], results["ais"]["chains"], results["ais"]["temperatures"]) == (6, 3, 12)
    assert (results["ais"]["k"], results["gaps"]["n"], results["gaps"]["steps"]) == (50, 5, 20)
    assert (results["rate_distortion"]["n"], results["rate_distortion"]["chains"]) == (4, 3)
    assert (results["calibration"]["n"], results["calibration"]["draws"]) == (40, 19)
    assert len(results["ais"]["bdmc_gap_each"]) == 6


def test_of_the_exact_guide_every_bound_is_the_evidence_of_its_own_data(everything):
    """Annealed chains, importance sampling and gaps are about the first of the shuffled sample, to 1e-9."""
    results, evidence, _ = everything
    ais, gaps, curve = results["ais"], results["gaps"], results["rate_distortion"]
    six = evidence[:6]
    for name in ("ais_lower", "importance", "bdmc_lower", "bdmc_upper"):
        assert ais[name] == pytest.approx(float(six.mean()), abs=1e-9), name
        assert ais[f"{name}_stderr"] == pytest.approx(float(six.std()) / math.sqrt(6), abs=1e-9), name
    assert ais["ais_above_importance"] == pytest.approx(0, abs=1e-9)
    assert ais["bdmc_simulated"] is False
    assert gaps["log_p"] == gaps["elbo"] == pytest.approx(float(evidence[:5].mean()), abs=1e-9)
    assert gaps["log_p_stderr"] == pytest.approx(float(evidence[:5].std()) / math.sqrt(5), abs=1e-9)
    guide = curve["guide"]
    assert -(guide["rate"] + guide["distortion"]) == pytest.approx(float(evidence[:4].mean()), abs=1e-9)
    assert guide["rate"] > 0
    assert guide["rate_stderr"] > 0


def test_the_same_seed_gives_the_same_numbers(toy, everything):
    built = build(registry.find("ppca"), toy, seed=1)
    again = evaluate(built, toy, all=True, **FEW, seed=2)
    for results in (again, dict(everything[0])):
        results.pop("seconds")
    assert {name: again[name] for name in FURTHER} == {name: everything[0][name] for name in FURTHER}


def test_differences_are_of_the_same_data(toy):
    """Of a guide that is not exact: annealed less importance sampling has a smaller error than either."""
    built = build(registry.find("ppca_mean_field"), toy, seed=1)
    found = evaluate(built, toy, ais=True, **FEW)["ais"]
    assert found["ais_above_importance"] == pytest.approx(found["ais_lower"] - found["importance"], abs=1e-9)
    assert 0 < found["ais_above_importance_stderr"] < found["importance_stderr"]


def test_discrete_latents_have_reasons():
    split = Split({"x": torch.ones(6)})
    pair = ppvae.Pair(model=bernoulli_model, guide=BernoulliGuide, data=None, discrete={"z": "score"})
    data = Dataset(name="bits", train=split, test=split)
    results = evaluate(build(pair, data), data, all=True, **FEW)
    assert results["calibration"] is not None
    for name in ("ais", "gaps", "rate_distortion"):
        assert results[name] is None
        assert "discrete" in results["reasons"][name]


def test_a_model_that_cannot_be_drawn_from_has_one_side(toy):
    """The lower bound stays, and what is missing says why."""

    class Blind(PPCA):
        def forward(self, x, *, n=None):
            return super().forward(x.clone())

    pair = dataclasses.replace(registry.find("ppca_mean_field"), model=Blind, posterior=None)
    results = evaluate(build(pair, toy, seed=1), toy, all=True, **FEW)
    assert math.isfinite(results["ais"]["ais_lower"])
    assert results["ais"]["bdmc_gap"] is results["ais"]["bdmc_gap_each"] is None
    assert "cannot dream" in results["ais"]["bdmc_missing"]
    assert "cannot" in results["reasons"]["calibration"]
    html = report.page(results, report.figures(results), title="blind", about={}).html()
    assert html.count("cannot dream") == 3  # in the summary, the section, and among the reasons


def test_a_pair_without_a_bound_has_none_of_it():
    data = load("digits8x8", binarization="static")
    few = dataclasses.replace(data, test=data.test.subset(torch.arange(10)) if data.test else None)
    built = build(registry.find("autoencoder"), few, latent=2, hidden=[5])
    results = evaluate(built, few, all=True, **FEW)
    for name in (*FURTHER, "information", "k_curve", "worst"):
        assert results[name] is None
        assert "no bound" in results["reasons"][name]


def test_a_trained_pair_passes_options_on(toy):
    options: dict[str, Any] = {"epochs": 1, "check": False, "progress": False}
    trained = ppvae.fit("ppca", toy, **options)
    results = trained.evaluate(k=30, n=5, calibration=True, calibration_n=20, calibration_draws=9)
    assert results["calibration"]["n"] == 20

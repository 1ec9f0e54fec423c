"""The rate-distortion curve against tempered posteriors in closed form."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae import registry
from ppvae.build import build
from ppvae.data.dataset import Dataset, Split
from ppvae.errors import UsageError
from ppvae.evaluation import importance, pilot
from ppvae.evaluation.rate_distortion import _path, rate_distortion_curve
from tests.evaluation.exact import LATENT, SCALE, SIZE, drawn, linear, tempered
from tests.evaluation.test_ais import mixture_evidence, z_score
from tests.toys import GUIDE_A, gaussian_toy, ones

pytestmark = pytest.mark.usefixtures("float64")
PROOFS = Path(__file__).parent.parent / "proof_pairs"


def curve(built, x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(rate, distortion) of q_beta, each (B,), in closed form."""
    mean, covariance, precision = tempered(built, x, beta)
    model = built.model
    with torch.no_grad():
        rate = 0.5 * (covariance.trace() + mean.square().sum(-1) - LATENT + precision.logdet())
        error = (x - model.mean - mean @ model.weight.T).square().sum(-1)
        error = error + (model.weight @ covariance @ model.weight.T).trace()
        return rate, 0.5 * (SIZE * math.log(2 * math.pi * SCALE**2) + error / SCALE**2)


def test_ppca_in_closed_form():
    """One run of 20 chains and 200 temperatures over beta = 1/64 .. 4: in the mean over 20 data, rate and
    distortion are exact within 0.15 nats, and log Z within 0.1; seed 0."""
    built = linear("ppca")
    batch = drawn(built, 20)
    betas = (1 / 64, 0.1, 0.5, 1.0, 4.0)
    found = rate_distortion_curve(built, batch, betas=betas, temperatures=200, leapfrog=2)
    assert found.rate.shape == found.distortion.shape == (5, 20)
    for i, beta in enumerate(betas):
        rate, distortion = curve(built, batch["x"], beta)
        assert abs(float((found.rate[i] - rate).mean())) < 0.15
        assert abs(float((found.distortion[i] - distortion).mean())) < 0.15 * max(1, 1 / beta)
        assert abs(float((found.log_z[i] + rate + beta * distortion).mean())) < 0.1
    rates = found.rate.mean(1)
    assert (rates.diff() > 0).all()
    assert (found.distortion.mean(1).diff() < 0).all()
    assert rates[-1] - rates[0] > 3
    # At beta = 1 the two are log p(x).
    torch.testing.assert_close(found.log_z[3], -found.rate[3] - found.distortion[3], rtol=0, atol=1e-9)
    assert float(found.acceptance.mean()) == pytest.approx(pilot.TARGET, abs=0.12)


@pytest.mark.parametrize("chains", [1, 5])
def test_from_above_however_short_the_path(chains):
    """The points lie above the curve, log Z below its truth and the rate above that of its distortion, in the
    mean of 400 runs for one datum within 3 standard errors, with 8 temperatures alone; seed 0."""
    built = linear("ppca")
    x = drawn(built, 1)["x"]
    betas = (0.05, 0.3, 1.0)
    found = rate_distortion_curve(
        built, {"x": x.expand(400, SIZE)}, betas=betas, chains=chains, temperatures=8, leapfrog=1
    )
    for i, beta in enumerate(betas):
        rate, distortion = (float(v) for v in curve(built, x, beta))
        assert z_score(found.log_z[i], -rate - beta * distortion) < 3
        # The curve is convex with slope -beta: its tangent at the truth is below it everywhere.
        tangent = rate - beta * (found.distortion[i] - distortion)
        assert z_score(found.rate[i] - tangent, 0.0) > 3  # and here, well above


@pytest.mark.parametrize(("b", "value"), [(0.5, -1.360258), (4.0, -1.765226)])
def test_the_best_beta_elbo_of_the_toy(b, value):
    """max_q E log p(x | z) - b KL(q, p(z)) = b log Z_(1/b), with q* = N(x / (1 + b), b / (1 + b)): rate,
    distortion and value in the mean of 100 equal data, 50 chains each, |z| < 3; seed 0."""
    built = gaussian_toy(*GUIDE_A)
    found = rate_distortion_curve(built, ones(100), betas=(1 / b,), chains=50, temperatures=40, leapfrog=2)
    assert abs(float((b * found.log_z[0]).mean()) - value) < 0.01
    variance = b / (1 + b)
    mean = 1 / (1 + b)
    rate = 0.5 * (variance + mean**2 - 1 - math.log(variance))
    distortion = 0.5 * math.log(2 * math.pi) + 0.5 * ((1 - mean) ** 2 + variance)
    assert -(distortion + b * rate) == pytest.approx(value, abs=1e-6)
    assert abs(z_score(found.distortion[0], distortion)) < 3
    assert float(found.rate[0].mean()) == pytest.approx(rate, abs=0.02)


def test_the_guide_is_not_asked(monkeypatch):
    built = linear("ppca_mean_field")
    monkeypatch.setattr(built, "run_guide", None)
    found = rate_distortion_curve(built, drawn(built, 3), betas=(0.5, 1.0), temperatures=4, chains=2)
    assert torch.isfinite(found.rate).all()


def test_with_a_component_summed_out():
    """At beta = 1 the mixture's evidence, at beta = 2 another number; seed 0, within 0.05 nats over 16
    data."""
    pair = registry.find(f"{PROOFS / 'mixture.py'}:PAIR")
    batch = sys.modules[getattr(pair.model, "__module__")].data()  # noqa: B009
    built = build(pair, Dataset(name="t", train=Split(batch)))
    found = rate_distortion_curve(built, batch, betas=(1.0, 2.0), chains=100, temperatures=40, leapfrog=2)
    log_p = mixture_evidence(built.model, batch["x"])
    assert abs(float((found.log_z[0] - log_p).mean())) < 0.05
    assert abs(float((found.log_z[1] - log_p).mean())) > 0.5


def test_data_are_cut_into_parts(monkeypatch):
    built = linear("ppca")
    batch = drawn(built, 5)
    monkeypatch.setitem(importance.CHUNK_ELEMENTS, "cpu", 4 * 10 * 6)
    monkeypatch.setattr(pilot, "MOVES", 30)
    found = rate_distortion_curve(built, batch, betas=(0.5, 1.0), chains=10, temperatures=120, leapfrog=2)
    wanted = torch.stack([-r - b * d for b in (0.5, 1.0) for r, d in [curve(built, batch["x"], b)]])
    assert (found.log_z - wanted).abs().max() < 1.0
    assert wanted[1].max() - wanted[1].min() > 2
    summary = found.summary()
    assert [row["beta"] for row in summary] == [0.5, 1.0]
    assert summary[1]["rate"] == pytest.approx(float(found.rate[1].mean()), abs=1e-12)
    assert summary[0]["log_z_stderr"] == pytest.approx(float(found.log_z[0].std()) / math.sqrt(5), abs=1e-12)
    assert set(summary[0]) == {
        "beta", "rate", "rate_stderr", "distortion", "distortion_stderr", "log_z", "log_z_stderr"
    }  # fmt: skip


def test_the_path_passes_through_all_betas():
    path, stops = _path((0.25, 1.0, 8.0), 11)
    assert len(path) == 12
    assert path[0] == 0.0
    assert [path[i] for i in sorted(stops)] == [0.25, 1.0, 8.0]
    assert sorted(path) == path
    assert len(set(path)) == 12
    assert _path((1.0,), 1) == ([0.0, 1.0], {1})


@pytest.mark.parametrize("betas", [(), (0.0, 1.0), (1.0, 0.5), (1.0, 1.0)])
def test_betas_are_positive_and_rise(betas):
    built = gaussian_toy(*GUIDE_A)
    with pytest.raises(UsageError, match="positive numbers that rise"):
        rate_distortion_curve(built, ones(2), betas=betas)


def test_counts_are_checked():
    built = gaussian_toy(*GUIDE_A)
    wrong: list[dict[str, Any]] = [{"chains": 0}, {"leapfrog": 0}, {"temperatures": 9}]
    for options in wrong:
        with pytest.raises(UsageError, match="use at least 1, 1 and 10"):
            rate_distortion_curve(built, ones(2), **options)

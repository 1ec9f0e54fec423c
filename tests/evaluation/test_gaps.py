"""Approximation and amortization gap: linear-Gaussian pairs, where both are known, and what is refused."""

import copy
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae import registry
from ppvae.build import build
from ppvae.data.dataset import Dataset, Split
from ppvae.errors import PairError, UsageError
from ppvae.evaluation import gaps, pilot
from ppvae.evaluation.gaps import Gaps, inference_gaps
from ppvae.pair import Pair
from tests.evaluation.exact import LATENT, SIZE, at_best, drawn, evidence, linear
from tests.evaluation.test_ais import z_score
from tests.toys import MLP, MLP_VAE, Encoder, bits, dataset, gaussian_model

pytestmark = pytest.mark.usefixtures("float64")
TESTS = Path(__file__).parent.parent
FAST: dict[str, Any] = {"steps": 300, "draws": 500}


@pytest.fixture
def quick(monkeypatch):
    """A short annealed run where log p(x) is no matter, or importance sampling tells it."""
    monkeypatch.setattr(gaps, "TEMPERATURES", 10)
    monkeypatch.setattr(pilot, "MOVES", 10)


def z_of(values, truth, errors) -> float:
    """z-score of a mean over the data whose Monte Carlo errors are known."""
    return float((values - truth).mean() / (errors.norm() / len(errors)))


@pytest.mark.parametrize("name", ["ppca_mean_field", "linear_vae"])
def test_the_best_mean_field_guide_has_the_gap_of_its_family_alone(name):
    """Approximation gap 1/2 (sum log P_jj - log det P), amortization gap 0: 20 data, seed 0, |z| < 3 and 0.01
    nats, what the fit itself may miss."""
    built = linear(name)
    truth = at_best(built)
    assert truth > 0.2
    found = inference_gaps(built, drawn(built, 20), **FAST)
    assert (found.family, found.note, found.source) == ("mean_field", None, "evidence")
    assert abs(z_of(found.approximation, truth, found.best_error)) < 3
    assert abs(float(found.approximation.mean()) - truth) < 0.03
    assert abs(float(found.amortization.mean())) < 0.01
    assert found.amortization.abs().max() < 0.03
    assert found.warnings() == []


def test_a_shifted_guide_is_charged_for_its_shift():
    """By d, with the best width: amortization 1/2 d'P d; the approximation gap stays. 20 data, |z| < 3, seed
    0."""
    built = linear("ppca_mean_field")
    truth = at_best(built)
    d = torch.tensor([0.3, -0.2, 0.1])
    with torch.no_grad():
        built.guide.encoder.bias.add_(d)
        loss = float(0.5 * d @ built.model.precision() @ d)
    assert loss > 0.3
    found = inference_gaps(built, drawn(built, 20), **FAST)
    assert abs(z_of(found.amortization, loss, found.amortization_error)) < 3
    assert float(found.amortization.mean()) == pytest.approx(loss, abs=0.1)
    assert abs(z_of(found.approximation, truth, found.best_error)) < 3
    # Both are parts of one whole, datum by datum.
    total = found.log_p - found.amortized
    torch.testing.assert_close(found.approximation + found.amortization, total, rtol=0, atol=1e-12)


def test_a_wide_guide_is_charged_for_its_width():
    """Twice the best scale: sum_j (s_j^2 / 2) P_jj (4 - 1) - log 2 = q (1.5 - log 2). Seed 0, |z| < 3."""
    built = linear("ppca_mean_field")
    at_best(built)
    with torch.no_grad():
        built.guide.scale = 2 * built.guide.scale.detach()
    found = inference_gaps(built, drawn(built, 20), **FAST)
    loss = LATENT * (1.5 - math.log(2))
    assert abs(z_of(found.amortization, loss, found.amortization_error)) < 3


@pytest.mark.parametrize("name", ["ppca", "ppca_full"])
def test_an_exact_guide_loses_nothing(name):
    """Both gaps are 0 for every datum, to 1e-4: at the posterior the fit has no noise and stays."""
    built = linear(name)
    if name == "ppca_full":
        at_best(built)
    found = inference_gaps(built, drawn(built, 20), **FAST)
    assert found.family == "full"
    assert found.approximation.abs().max() < 1e-4
    assert found.amortization.abs().max() < 1e-4


def test_a_full_covariance_closes_the_mean_fields_gap():
    """What the amortized diagonal lacked is then all amortization; to 1e-4, as the fit ends where nothing is
    noise."""
    built = linear("ppca_mean_field")
    truth = at_best(built)
    found = inference_gaps(built, drawn(built, 20), family="full", steps=500, draws=500)
    assert found.family == "full"
    assert found.note == "q* has a full covariance, the guide a diagonal one"
    assert found.approximation.abs().max() < 1e-4
    assert abs(z_of(found.amortization, truth, found.amortization_error)) < 3


def test_a_diagonal_best_beside_a_full_guide():
    """family='mean_field' for the exact guide: the amortization gap is minus the gap of the family, and is
    said."""
    built = linear("ppca")
    truth = at_best(linear("ppca_mean_field"))
    found = inference_gaps(built, drawn(built, 20), family="mean_field", **FAST)
    assert found.note == "q* has a diagonal covariance, the guide none such"
    assert abs(z_of(found.approximation, truth, found.best_error)) < 3
    assert float(found.amortization.mean()) == pytest.approx(-truth, abs=0.05)
    (line,) = found.warnings()
    assert line.startswith("the amortization gap is -0.")
    assert found.note in line


def test_far_starts_arrive(monkeypatch):
    """An encoder of the wrong sign and a third of the width, up to 70 widths away: the family's gap remains,
    for each datum within 5 errors and 0.01, after several rounds; one round alone says that it was not
    enough."""
    built = linear("ppca_mean_field")
    truth = at_best(built)
    with torch.no_grad():
        built.guide.encoder.weight.mul_(-1)
        built.guide.scale = built.guide.scale.detach() / 3
    batch = drawn(built, 5)
    found = inference_gaps(built, batch, steps=250, lr=0.2, draws=500)
    assert found.warnings() == []
    assert (found.amortization > 5).all()
    assert ((found.approximation - truth).abs() < 5 * found.best_error + 0.01).all()
    monkeypatch.setattr(gaps, "ROUNDS", 1)
    (line,) = inference_gaps(built, batch, steps=250, lr=0.2, draws=500).warnings()
    assert "was still gaining" in line
    assert line.endswith("raise steps")


def test_a_vaes_gaps_are_not_negative(quick):
    """A nonlinear decoder whose log p(x) is estimated: both gaps above -3 errors, and their whole is log p -
    elbo."""
    built = build(MLP_VAE, dataset(bits(20)))
    with torch.no_grad():
        for p in built.model.parameters():  # type: ignore[union-attr]
            p.mul_(2.0)
    found = inference_gaps(built, bits(20), k=2000, **FAST)
    assert found.source in ("ais", "importance_sampling")
    assert (found.log_p_error > 0).all()
    assert found.warnings() == []
    assert z_of(found.amortization, 0.0, found.amortization_error) > 3
    error = (found.log_p_error**2 + found.best_error**2).sqrt()
    assert z_of(found.approximation, 0.0, error) > -3


@pytest.mark.parametrize("better", ["ais", "importance_sampling"])
def test_the_tighter_bound_stands_for_the_evidence(better, monkeypatch):
    """Where no evidence is known: a good guide makes importance sampling exact, a bad one is left to
    annealing."""
    built = linear("ppca_full")
    at_best(built)
    if better == "ais":
        with torch.no_grad():
            built.guide.encoder.weight.mul_(-0.5)
        monkeypatch.setattr(pilot, "MOVES", 30)
    monkeypatch.setattr(gaps, "TEMPERATURES", 100 if better == "ais" else 2)
    batch = drawn(built, 10)
    log_p = evidence(built, batch)
    hidden = build(
        dataclasses.replace(built.pair, evidence=None), None, x_shape=(SIZE,), latent=LATENT
    ).double()
    hidden.load_state_dict(built.state_dict())
    if better == "importance_sampling":  # a tie otherwise: all weights are the evidence
        monkeypatch.setattr(gaps, "annealed", lambda *_, **__: Low(log_p - 1))
    found = inference_gaps(hidden, batch, steps=5, draws=20, k=250)
    assert found.source == better
    deviation = (found.log_p - log_p).abs()
    assert (deviation < 5 * found.log_p_error + 1e-6).all()
    if better == "importance_sampling":
        assert deviation.max() < 1e-9
        assert found.log_p_error.max() < 1e-6


class Low:
    """A poor estimate."""

    def __init__(self, lower):
        self.lower, self.ess = lower, torch.ones_like(lower)


def test_the_error_of_importance_sampling_is_that_of_repeated_runs():
    """log p of one datum 200 times, K = 300: the stated error is their deviation within 20 %, seed 0."""
    built = linear("ppca_mean_field")
    at_best(built)
    with torch.no_grad():
        built.guide.scale = 1.3 * built.guide.scale.detach()
        x = drawn(built, 1)["x"].expand(200, SIZE)
        log_p, error = gaps._importance(built, {"x": x}, 300)
    assert float(error.mean()) == pytest.approx(float(log_p.std()), rel=0.2)
    assert abs(z_score((log_p - evidence(built, {"x": x})).exp(), 1.0)) < 3


def test_log_p_may_be_given():
    built = linear("ppca_mean_field")
    truth = at_best(built)
    batch = drawn(built, 10)
    found = inference_gaps(built, batch, log_p=evidence(built, batch) - 2.0, **FAST)
    assert found.source == "given"
    assert float(found.approximation.mean()) == pytest.approx(truth - 2.0, abs=0.1)
    (line,) = found.warnings()
    assert "the approximation gap is -1." in line
    assert "log p(x) is estimated too low" in line


def test_several_latents_have_one_factorized_best(quick, monkeypatch):
    """Two layers: said in the note, finite, and better than nothing."""
    monkeypatch.setattr(gaps, "ROUNDS", 1)
    pair = registry.find(f"{TESTS / 'sound_pairs/hierarchical.py'}")
    batch = sys.modules[getattr(pair.model, "__module__")].data()  # noqa: B009
    batch = {"x": batch["x"][:10].double()}
    built = build(pair, Dataset(name="t", train=Split(batch)))
    found = inference_gaps(built, batch, steps=300, draws=300, k=300)
    assert found.note == "q* makes all coordinates of bottom, top independent, which the guide need not"
    assert torch.isfinite(found.approximation).all()
    assert float(found.amortization.mean()) > 0  # an untrained guide
    with pytest.raises(PairError, match="bottom, top has no start"):
        inference_gaps(built, batch, family="full")


def test_independent_latents_in_one_and_two_sites_are_the_same():
    """z of two numbers, or two z of one: same optimum, gaps within 0.05 nats; 10 data, seed 0."""

    def joined(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z[..., 0] + 0.5 * z[..., 1], 0.5), obs=x)

    def apart(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            b = pyro.sample("b", dist.Normal(torch.tensor(0.0), 1.0))
            a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
            return pyro.sample("x", dist.Normal(a + 0.5 * b, 0.5), obs=x)

    class Joined(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor([0.9, 0.1]))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x.unsqueeze(-1) * self.gain, 0.7).to_event(1))

    class Apart(Joined):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("a", dist.Normal(x * self.gain[0], 0.7))
                pyro.sample("b", dist.Normal(x * self.gain[1], 0.7))

    def exact(model, batch):
        return dist.Normal(torch.tensor(0.0), math.sqrt(1.5)).log_prob(batch["x"])

    batch = {"x": torch.linspace(-2, 2, 10)}
    results = []
    for model, guide in ((joined, Joined), (apart, Apart)):
        built = build(Pair(model=model, guide=guide, data=None, evidence=exact)).double()
        results.append(inference_gaps(built, batch, steps=500, draws=2000))
    one, two = results
    assert one.note is None
    assert two.note is not None
    assert abs(float((one.best - two.best).mean())) < 0.05
    assert abs(float((one.amortized - two.amortized).mean())) < 0.1
    # P = I + 4 (1, .5)'(1, .5): 1/2 (log 5 + log 2 - log 6).
    assert float(one.approximation.mean()) == pytest.approx(0.5 * math.log(10 / 6), abs=0.03)


def test_an_unvectorized_pair_has_the_same_gaps():
    """Chains among the rows: within 0.05 nats of chains beside them, seed 0."""
    results = []
    for vectorize in (True, False):
        pair = Pair(model=MLP, guide=Encoder, data=None, vectorize=vectorize)
        built = build(pair, dataset(bits()))
        results.append(inference_gaps(built, bits(), log_p=torch.zeros(7), steps=300, draws=1000))
    assert abs(float((results[0].amortization - results[1].amortization).mean())) < 0.05
    assert float(results[0].amortization.mean()) > 0.1


# ---- what is left as it was, what is said, what is refused


def test_nothing_is_touched():
    built = build(MLP_VAE, dataset(bits()))
    built.train()
    for p in built.parameters():
        p.grad = torch.randn_like(p)
    before, state = copy.deepcopy(built.state_dict()), torch.get_rng_state()
    grads = [p.grad.clone() for p in built.parameters() if p.grad is not None]
    one = inference_gaps(built, bits(), log_p=torch.zeros(7), steps=5, draws=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[n]) for n, v in built.state_dict().items())
    assert all(
        torch.equal(p.grad, g) for p, g in zip(built.parameters(), grads, strict=True) if p.grad is not None
    )
    assert built.training
    assert torch.equal(inference_gaps(built, bits(), log_p=torch.zeros(7), steps=5, draws=20).best, one.best)
    other = inference_gaps(built, bits(), log_p=torch.zeros(7), steps=5, draws=20, seed=1)
    assert not torch.equal(other.best, one.best)


def test_the_summary_is_a_mean_over_the_data():
    values = torch.arange(4.0)
    none = torch.zeros(4)
    found = Gaps(values + 3, none, values, values + 1, none, none, none, "mean_field", None, "given")
    summary = found.summary()
    assert summary["approximation_gap"] == 2.0
    assert summary["amortization_gap"] == 1.0
    assert summary["elbo_best"] == 2.5
    assert summary["elbo_best_stderr"] == pytest.approx(float(values.std()) / 2)
    assert (summary["gap_family"], summary["gap_log_p"], summary["gap_warnings"]) == (
        "mean_field",
        "given",
        [],
    )


def test_errors_of_monte_carlo_decide_about_warnings():
    """-0.05 in the mean is no warning with an error of 0.02, and is one with 0.01."""
    none = torch.zeros(4)
    for error, lines in ((0.04, 0), (0.02, 1)):  # of the mean over 4 data: a half
        errors = torch.full((4,), error)
        found = Gaps(none + 1, none, none, none - 0.05, none, errors, none, "mean_field", None, "given")
        assert len(found.warnings()) == lines


def heavy(x=None, *, n=None):
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.LogNormal(torch.tensor(0.0), 1.0))
        return pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Masked(nn.Module):
    def __init__(self, model=None):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1), pyro.poutine.mask(mask=x > 0):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


class Positive(Masked):
    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.LogNormal(self.loc, 1.0))


def test_guides_that_are_not_gaussian_are_refused():
    built = build(Pair(model=heavy, guide=Positive, data=None))
    with pytest.raises(PairError, match="'z' is drawn from a LogNormal: use a Normal"):
        inference_gaps(built, {"x": torch.ones(3)})


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("sound_pairs/dirichlet_latent.py", "'theta' is drawn from a Dirichlet"),
        ("sound_pairs/guide_with_auxiliary_site.py", "'z' is drawn from a Delta"),
        ("proof_pairs/mixture.py:IN_GUIDE", "cannot take 'c', which the guide enumerates"),
        ("proof_pairs/regression.py:PAIR", "with global latents the weights are joint"),
    ],
)
def test_other_guides_are_refused(place, text):
    pair = registry.find(f"{TESTS / place}")
    batch = sys.modules[getattr(pair.model, "__module__")].data()  # noqa: B009
    batch = {name: value.double() for name, value in batch.items()}
    with pytest.raises(PairError, match=text):
        inference_gaps(build(pair, Dataset(name="t", train=Split(batch))), batch)


def test_masked_latents_are_refused():
    built = build(Pair(model=gaussian_model, guide=Masked, data=None))
    with pytest.raises(PairError, match="'z' is masked for some data"):
        inference_gaps(built, {"x": torch.tensor([1.0, -1.0])})


@pytest.mark.parametrize("options", [{"steps": 0}, {"particles": 0}, {"draws": 1}, {"k": 0}])
def test_counts_are_checked(options):
    built = build(MLP_VAE, dataset(bits()))
    with pytest.raises(UsageError, match="use at least 1, 1, 2 and 1"):
        inference_gaps(built, bits(), **options)


def test_families_are_checked():
    built = build(MLP_VAE, dataset(bits()))
    with pytest.raises(UsageError, match="use 'mean_field' or 'full'"):
        inference_gaps(built, bits(), family="diagonal")  # type: ignore[arg-type]

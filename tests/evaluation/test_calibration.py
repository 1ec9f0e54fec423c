"""Simulation-based calibration: exact guides pass; narrow, wide, shifted and blind ones fail, and are told
apart."""

import math
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn

from ppvae import registry
from ppvae.build import build
from ppvae.data import Dataset, Split, load
from ppvae.errors import PairError, UsageError
from ppvae.evaluation import importance
from ppvae.evaluation.calibration import (
    LIKELIHOOD,
    Ranks,
    bins_for,
    by_lot,
    calibration_ranks,
    calibration_summary,
    uniform_p_value,
)
from ppvae.models.ppca import PPCA
from ppvae.pair import Pair
from tests.toys import bernoulli_model, bernoulli_toy

PROOFS = Path(__file__).parents[1] / "proof_pairs"


@pytest.fixture(scope="module")
def toy():
    return load("ppca_toy")


class Bent:
    """The exact posterior of ppca with its scale multiplied and its mean moved, in standard deviations."""

    def __init__(self, model: PPCA, factor: float = 1.0, shift: float = 0.0):
        self.model, self.factor, self.shift = model, factor, shift

    def __call__(self, x, *, n=None):
        q = self.model.posterior(x)
        moved = q.loc + self.shift * q.stddev
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(moved, scale_tril=self.factor * q.scale_tril))


def verdict(built, split, **options):
    return calibration_summary(calibration_ranks(built, split, **options))


def bent(toy, **options):
    return build(Pair(model=PPCA, guide=Bent, data=None), toy, seed=1, **options)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_exact_guide_passes(toy, seed):
    """1,000 simulated data, three seeds; shift and spread within 4 standard errors of 0."""
    results = verdict(build(registry.find("ppca"), toy, seed=1), toy.test, seed=seed)
    assert results["passed"]
    assert results["failing"] == 0
    assert (results["n"], results["draws"], results["bins"], results["ranked"]) == (1000, 99, 20, 4)
    for found in results["quantities"].values():
        for shift, spread in zip(found["shift"], found["spread"], strict=True):
            assert abs(shift) < 4 * math.sqrt(1 / 12 / 1000)
            assert abs(spread) < 4 * math.sqrt(0.8 / 1000)  # var of 12 (u - 1/2)^2 is 4 / 5


@pytest.mark.parametrize(
    ("options", "sign"),
    [
        ({"factor": 0.7}, "narrow"),
        ({"factor": 1.4}, "wide"),
        ({"shift": 0.4}, "high"),
        ({"shift": -0.4}, "low"),
    ],
)
def test_a_guide_that_is_not_the_posterior_fails(toy, options, sign):
    """And every dimension says how: too narrow piles ranks up at the ends, too wide in the middle; one that
    lies too high ranks the truth low. Seed 0."""
    results = verdict(bent(toy, **options), toy.test)
    assert not results["passed"]
    found = results["quantities"]["z"]
    assert results["failing"] >= 3
    for p_value, shift, spread in zip(found["p_value"], found["shift"], found["spread"], strict=True):
        assert p_value * results["ranked"] < 0.01
        said = {"narrow": spread > 0.2, "wide": spread < -0.2, "high": shift < -0.05, "low": shift > 0.05}
        assert said[sign]
        assert sign not in ("narrow", "wide") or abs(shift) < 0.05


def test_the_same_guide_bent_by_nothing_passes(toy):
    assert verdict(bent(toy), toy.test)["passed"]


def test_a_guide_that_ignores_the_data_is_found_by_the_likelihood_alone(toy):
    """q = p(z): every dimension of z is uniform. log p(x | z0) is far above that of other draws."""

    class Blind:
        def __init__(self, model):
            self.latent = model.latent

        def __call__(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                zeros = torch.zeros(self.latent, dtype=x.dtype)
                pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))

    results = verdict(build(Pair(model=PPCA, guide=Blind, data=None), toy, seed=1), toy.test)
    assert not results["passed"]
    assert results["failing"] == 1
    assert results["worst"][0]["quantity"] == LIKELIHOOD
    assert results["worst"][0]["shift"] > 0.1


def test_p_values_of_the_exact_guide_are_uniform(toy):
    """40 seeds of 200 data each, dimension by dimension: the 120 p-values by Kolmogorov and Smirnov (the
    counts are discrete, so that 0.005 is asked), and at most 3 failures of 40 at the level of 0.01."""
    built = build(registry.find("ppca"), toy, seed=1)
    results = [verdict(built, toy.test, n=200, draws=39, seed=seed) for seed in range(40)]
    p_values = [p for found in results for p in found["quantities"]["z"]["p_value"]]
    assert stats.kstest(p_values, "uniform").pvalue > 0.005
    assert sum(not found["passed"] for found in results) <= 3


# ---- discrete latents


class BernoulliPosterior(nn.Module):
    """p(z = 1 | x) of the Bernoulli toy."""

    def __init__(self, model=None):
        super().__init__()
        self.prob = nn.Parameter(torch.tensor([0.3 * 0.1 / (0.3 * 0.1 + 0.7 * 0.8), 0.27 / 0.41]))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(self.prob[x.long()]))


def test_ties_are_broken_by_lot():
    """The exact posterior of a bit passes, a constant guide fails."""
    split = Split({"x": torch.tensor([0.0, 1.0])})
    assert verdict(bernoulli_toy(BernoulliPosterior), split, n=2000)["passed"]
    results = verdict(bernoulli_toy(), split, n=2000)
    assert not results["passed"]
    assert results["quantities"]["z"]["shift"][0] < -0.05  # q(z = 1) = .6 is too high


def test_what_differs_by_rounding_is_a_tie():
    """A sum over many pixels rounds otherwise in a batch of many draws, and to the same side for all of
    them."""

    def rounding(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            nudge = 1 + 3e-7 * (z.dim() > 1)
            return pyro.sample("x", dist.Bernoulli((0.2 + 0.7 * z) * nudge), obs=x)

    pair = Pair(model=rounding, guide=BernoulliPosterior, data=None, discrete={"z": "score"})
    results = verdict(build(pair), Split({"x": torch.tensor([0.0, 1.0])}), n=2000)
    assert results["passed"]


def test_a_place_among_equals_is_uniform():
    """5 smaller, 3 equal: 5, 6, 7 or 8, a quarter of the time each; without equals, 5."""
    smaller = torch.full((40_000, 2), 5)
    equal = torch.tensor([3, 0]).expand(40_000, 2)
    ranks = by_lot(smaller, equal)
    assert ranks[:, 1].unique().tolist() == [5]
    counts = ranks[:, 0].bincount(minlength=9)
    assert counts[:5].sum() == 0
    assert stats.chisquare(counts[5:].numpy()).pvalue > 1e-3


# ---- how it is counted


def test_p_values_are_those_of_scipy():
    draws = torch.randint(20, (30, 500), generator=torch.Generator().manual_seed(0))
    counts = torch.stack([row.bincount(minlength=20) for row in draws])
    wanted = stats.chisquare(counts.numpy(), axis=1).pvalue
    assert wanted.max() > 0.5
    torch.testing.assert_close(uniform_p_value(counts), torch.as_tensor(wanted), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("n", "draws", "bins"),
    [(1000, 99, 20), (60, 99, 10), (1000, 19, 20), (1000, 100, 1), (1000, 1, 2), (3, 99, 2)],
)
def test_bins_hold_equally_many_ranks(n, draws, bins):
    assert bins_for(n, draws) == bins
    assert (draws + 1) % bins == 0


def test_the_summary_counts_every_rank_once():
    """Ranks 0 to 99, each once, fill 20 bins with 5; the order is that of the p-values."""
    ranks = Ranks(99, {"z": torch.stack([torch.arange(100), torch.full((100,), 99)], 1)})
    results = calibration_summary(ranks)
    assert [row["dimension"] for row in results["worst"]] == [1, 0]
    assert results["worst"][1]["counts"] == [5] * 20
    assert results["worst"][0]["counts"] == [0] * 19 + [100]
    even, last = ({key: column[d] for key, column in results["quantities"]["z"].items()} for d in (0, 1))
    assert even["p_value"] == pytest.approx(1.0)
    assert even["shift"] == pytest.approx(0.0, abs=1e-12)
    assert even["spread"] == pytest.approx(-1e-4, abs=1e-9)
    assert last["shift"] == pytest.approx(0.495)
    assert not results["passed"]


def test_the_verdict_is_that_of_the_smallest_p_value_times_their_number():
    """Bonferroni: 41 of 1,000 ranks moved to the end have a p-value of 0.0066, which fails alone at the level
    of 0.01, and passes among three."""
    even = torch.arange(100).repeat(10)
    uneven = even.clone()
    uneven[:41] = 99
    alone = calibration_summary(Ranks(99, {"z": uneven[:, None]}))
    among = calibration_summary(Ranks(99, {"z": torch.stack([uneven, even, even], 1)}))
    smallest = alone["worst"][0]["p_value"]
    assert 0.01 / 3 < smallest < 0.01
    assert alone["p_value"] == pytest.approx(smallest)
    assert among["p_value"] == pytest.approx(3 * smallest)
    assert (alone["passed"], alone["failing"], among["passed"], among["failing"]) == (False, 1, True, 0)


@pytest.mark.parametrize("chunk", [30, 10**9])
def test_draws_come_in_chunks(toy, chunk, monkeypatch):
    """With 30 numbers a chunk one datum and one draw at a time; exact guides still pass."""
    monkeypatch.setitem(importance.CHUNK_ELEMENTS, "cpu", chunk)
    built = build(registry.find("ppca"), toy, seed=1)
    n, draws = (40, 9) if chunk == 30 else (400, 19)
    found = calibration_ranks(built, toy.test, n=n, draws=draws)
    assert {name: tuple(r.shape) for name, r in found.ranks.items()} == {"z": (n, 3), LIKELIHOOD: (n, 1)}
    for ranks in found.ranks.values():
        assert ranks.min() >= 0
        assert ranks.max() <= draws
    assert calibration_summary(found)["passed"]


# ---- other pairs


def of_proof(name, attribute="PAIR", **options):
    pair = registry.find(f"{PROOFS / name}.py:{attribute}")
    split = Split(sys.modules[pair.model.__module__].data())  # type: ignore[union-attr]
    return calibration_ranks(build(pair, Dataset(name=name, train=split)), split, n=30, draws=9, **options)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("conditional_two_layer", {"z1": 3, "z2": 2}),
        ("sequence", {"z": 2, "s": 5}),
        ("mixture", {"z": 2}),
        ("critic", {"z": 2}),
    ],
)
def test_every_drawn_latent_is_ranked(name, shapes):
    """Conditions, lengths and masks are the data's own; inner plates give further dimensions."""
    ranks = of_proof(name).ranks
    assert {key: r.shape[1] for key, r in ranks.items()} == shapes | {LIKELIHOOD: 1}
    assert all(len(r) == 30 for r in ranks.values())


def test_what_cannot_be_ranked_says_why():
    with pytest.raises(PairError, match="latent 'w' is shared by all data"):
        of_proof("regression")
    with pytest.raises(PairError, match="the guide enumerates 'c': there are no draws"):
        of_proof("mixture", "IN_GUIDE")

    def nothing(x, *, n=None):
        pass

    built = bernoulli_toy(nothing, "enumerate")
    with pytest.raises(PairError, match="the guide draws no latent"):
        calibration_ranks(built, Split({"x": torch.ones(3)}))

    def undrawable(x=None, *, n=None):
        if x is None:
            raise ZeroDivisionError("no data")
        return bernoulli_model(x)

    built = build(Pair(model=undrawable, guide=BernoulliPosterior, data=None, discrete={"z": "score"}))
    with pytest.raises(PairError, match=r"the model cannot be drawn from \(no data\)"):
        calibration_ranks(built, Split({"x": torch.ones(3)}))


@pytest.mark.parametrize("options", [{"n": 0}, {"draws": 0}])
def test_sizes_are_at_least_one(toy, options):
    with pytest.raises(UsageError, match="use at least 1 of each"):
        calibration_ranks(bent(toy), toy.test, **options)


def test_missing_values_are_zeros_for_the_guide_too():
    """As in data with a mask, where the missing entries are stored as zeros."""
    seen = []

    class Masked(nn.Module):
        def forward(self, x=None, *, mask=None, n=None):
            rows = n if x is None else len(x)
            with pyro.plate("data", rows, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                p = dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 0.1)
                p = p if mask is None else p.mask(mask)
                return pyro.sample("x", p.to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x, *, mask=None, n=None):
            assert mask is not None
            seen.append((x, mask))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x.sum(-1) / mask.sum(-1).clamp(min=1), self.scale))

    mask = torch.rand(50, 3) < 0.6
    split = Split({"x": torch.zeros(50, 3), "mask": mask})
    calibration_ranks(build(Pair(model=Masked, guide=Guide, data=None)), split, n=50, draws=9)
    assert seen
    for x, mask in seen:
        assert (x[~mask] == 0).all()
        assert (x[mask] != 0).all()

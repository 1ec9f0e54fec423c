"""Annealed importance sampling and bidirectional Monte Carlo against pairs whose evidence is known."""

import copy
import dataclasses
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae import registry
from ppvae.build import build
from ppvae.data.dataset import Dataset, Split
from ppvae.errors import PairError, UsageError
from ppvae.evaluation import importance, pilot
from ppvae.evaluation.ais import annealed, backward, bidirectional, forward, schedule
from ppvae.evaluation.log_joint import LogJoint
from ppvae.evaluation.means import evaluating
from ppvae.evaluation.simulation import simulated
from ppvae.pair import Pair
from tests.evaluation.exact import at_best, drawn, evidence, linear
from tests.toys import GUIDE_A, GUIDE_B, LOG_P, MLP, MLP_VAE, Encoder, bits, dataset, gaussian_toy, ones

pytestmark = pytest.mark.usefixtures("float64")
PROOFS = Path(__file__).parent.parent / "proof_pairs"

SCHEDULES: dict[str, dict[str, Any]] = {
    "guide": {"chains": 10, "temperatures": 100, "leapfrog": 3},
    "prior": {"chains": 20, "temperatures": 200, "leapfrog": 2},
}
"""By start: with these, both bounds meet within 0.1 nat on the pPCA of `detuned`."""


@pytest.fixture
def short_pilot(monkeypatch):
    """Where what is tested holds for any step sizes."""
    monkeypatch.setattr(pilot, "MOVES", 5)


def z_score(values: Tensor, truth: float) -> float:
    values = values.flatten().double()
    return float((values.mean() - truth) / (values.std() / math.sqrt(len(values))))


def detuned(rows: int = 20) -> tuple[Any, dict[str, Tensor], Tensor]:
    """Mean-field pPCA whose encoder says 0.7 of what it should: (built, batch, log p(x))."""
    built = linear("ppca_mean_field")
    at_best(built)
    with torch.no_grad():
        built.guide.encoder.weight.mul_(0.7)
    batch = drawn(built, rows)
    return built, batch, evidence(built, batch)


# ---- exact transitions


def exact_move(joint: LogJoint, betas, loc: float, scale: float):
    """Independent draws of f_beta ~ N(z; loc, scale^2)^(1 - beta) (N(z; 0, 1) N(1; z, 1))^beta."""

    def move(t: int, point):
        precision = (1 - betas[t]) / scale**2 + 2 * betas[t]
        mean = ((1 - betas[t]) * loc / scale**2 + betas[t]) / precision
        return joint.point(mean + torch.randn_like(point.position) / math.sqrt(precision))

    return move


def exact_runs(guide, betas, chains=500, rows=200) -> tuple[Tensor, Tensor]:
    """log-weights of forward and backward runs of a Gaussian toy with exact transitions."""
    built = gaussian_toy(*guide)
    with evaluating(built, 0):
        joint = LogJoint(built, ones(rows), chains)
        move = exact_move(joint, betas, *guide)
        *_, (there, _) = forward(joint.point(joint.draw()), betas, move)
        posterior = joint.point(0.5 + math.sqrt(0.5) * torch.randn(chains, rows, 1))
        return there, backward(posterior, betas, move)


@pytest.mark.parametrize(
    ("guide", "betas", "lower", "upper"),
    [
        (GUIDE_A, (0.0, 0.25, 0.5, 0.75, 1.0), -1.600072, -1.443822),
        (GUIDE_A, (0.0, 0.5, 1.0), -1.696716, -1.384216),
        (GUIDE_B, (0.0, 0.25, 0.5, 0.75, 1.0), -1.533771, -1.498283),
    ],
)
def test_exact_transitions_give_the_sums_of_thermodynamic_integration(guide, betas, lower, upper):
    """The mean log-weight is TVO's lower sum, that of the reverse its upper; 100,000 chains, seed 0, |z| <
    3."""
    there, back = exact_runs(guide, betas)
    assert abs(z_score(there, lower)) < 3
    assert abs(z_score(back, upper)) < 3
    # And whatever the schedule, the weights are unbiased.
    assert abs(z_score((there - LOG_P).exp(), 1.0)) < 3
    assert abs(z_score((LOG_P - back).exp(), 1.0)) < 3


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_gap_of_exact_transitions_falls_like_1_over_n(n):
    """Guide A, n even steps: .625 / n; 100,000 chains, seed 0."""
    there, back = exact_runs(GUIDE_A, [t / n for t in range(n + 1)])
    error = math.sqrt((there.var() + back.var()) / there.numel())
    assert abs(float(back.mean() - there.mean()) - 0.625 / n) < 3 * error


# ---- Hamiltonian transitions


def test_one_temperature_is_importance_sampling(short_pilot):
    """The same draws give the same weights as scoring them, to 1e-9."""
    built, batch, _ = detuned()
    found = annealed(built, batch, chains=7, temperatures=1, seed=4)
    with evaluating(built, 4):
        LogJoint(built, batch, 7)  # which looks at one draw to learn the layout
        wanted = built.score(batch, 7).log_weight
    torch.testing.assert_close(found.log_weight, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.lower, wanted.exp().mean(0).log(), rtol=0, atol=1e-9)
    assert found.acceptance.isnan().all()
    assert found.summary()["ais_acceptance"] is None


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("temperatures", [3, 12])
def test_weights_are_unbiased_however_short_the_path(start, temperatures, short_pilot):
    """E w = p(x) forward, E 1/w = 1 / p(x) backward, for a toy with 20,000 chains (100 for each of 200 equal
    data), seed 3, |z| < 3. Transitions that were not exact, or followed their own chains, would not keep
    this."""
    built = gaussian_toy(0.4, 0.9)
    options: dict[str, Any] = {"chains": 100, "temperatures": temperatures, "leapfrog": 2, "start": start}
    weights = annealed(built, ones(200), seed=3, **options).log_weight
    assert abs(z_score((weights - LOG_P).exp(), 1.0)) < 3
    assert (weights - LOG_P).std() > 0.02
    pair = dataclasses.replace(built.pair, posterior=posterior)
    other = build(pair, loc=0.4, scale=0.9)
    found = bidirectional(other, ones(200), seed=3, **options)
    assert not found.is_simulated
    assert abs(z_score((found.lower - LOG_P).exp(), 1.0)) < 3
    assert abs(z_score((LOG_P - found.upper).exp(), 1.0)) < 3


def posterior(model, batch):
    return {"z": torch.distributions.Normal(0.5 * batch["x"], math.sqrt(0.5))}


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_the_bounds_meet_around_the_evidence(start):
    """Within 0.1 nat at `SCHEDULES`; in the mean over 20 data lower <= log p <= upper within 3 standard
    errors, and the transitions accept what they were tuned to within 0.1; seed 0."""
    built, batch, log_p = detuned()
    found = bidirectional(built, batch, start=start, seed=0, **SCHEDULES[start])
    assert not found.is_simulated
    assert float(found.gap.mean()) < 0.1
    assert abs(float((found.lower - log_p).mean())) < 0.1
    assert abs(float((found.upper - log_p).mean())) < 0.1
    assert z_score(found.lower - log_p, 0.0) < 3
    assert z_score(found.upper - log_p, 0.0) > -3
    assert z_score(found.gap, 0.0) > -3
    assert float(found.acceptance.mean()) == pytest.approx(pilot.TARGET, abs=0.1)
    assert torch.equal(found.batch["x"], batch["x"])


def test_longer_paths_are_tighter(short_pilot):
    """From 1 to 4, 16 and 64 temperatures, the mean log-weight rises and that of the reverse falls, each step
    by more than 3 standard errors of the paired difference over 20 data, 20 single chains each; seed 0."""
    built, batch, log_p = detuned()
    lows, highs = [], []
    for temperatures in (1, 4, 16, 64):
        many = {"x": batch["x"].repeat(20, 1)}
        found = bidirectional(built, many, chains=1, temperatures=temperatures, leapfrog=2)
        lows.append(found.lower.reshape(20, 20).mean(0))
        highs.append(found.upper.reshape(20, 20).mean(0))
    for a, b in pairwise(lows):
        assert z_score(b - a, 0.0) > 3
    for a, b in pairwise(highs):
        assert z_score(a - b, 0.0) > 3
    assert z_score(lows[-1] - log_p, 0.0) < 3
    assert z_score(highs[-1] - log_p, 0.0) > -3


def test_more_chains_are_tighter(short_pilot):
    """log-mean-exp of the same log-weights, chains one by one and all together: by Jensen, exactly."""
    built, batch, _ = detuned()
    found = annealed(built, batch, chains=20, temperatures=5, leapfrog=2)
    assert (found.lower > found.log_weight.mean(0)).all()
    torch.testing.assert_close(found.lower, found.log_weight.exp().mean(0).log())
    weights = found.log_weight.softmax(0)
    torch.testing.assert_close(found.ess, 1 / weights.square().sum(0))


def test_it_is_better_than_importance_sampling_where_that_is_bad(short_pilot):
    """At a cost of 500 draws each: the annealed bound is above, by more than 3 standard errors over 20
    data."""
    built, batch, log_p = detuned()
    with torch.no_grad():
        built.guide.encoder.weight.mul_(0.3)
    with evaluating(built, 0):
        plain = importance.log_likelihood(built, batch, 500)
    found = annealed(built, batch, chains=5, temperatures=50, leapfrog=2)
    assert z_score(found.lower - plain, 0.0) > 3
    assert abs(float((found.lower - log_p).mean())) < 0.5


def test_log_z_of_an_undirected_model(short_pilot):
    """0.5 b'A^-1 b + log 2 pi - 0.5 log det A; seed 0, 400 chains, |z| < 3 for the mean weight."""
    pair = registry.find(f"{PROOFS / 'undirected.py'}:QUADRATIC")
    module = sys.modules[getattr(pair.model, "__module__")]  # noqa: B009
    found = annealed(build(pair).double(), {}, chains=400, temperatures=10, leapfrog=2)
    assert found.log_weight.shape == (400, 1)
    assert abs(z_score((found.log_weight - module.log_z_quadratic()).exp(), 1.0)) < 3


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_with_a_component_summed_out(start, short_pilot):
    """log sum_c p(c) N(x; W m_c + b_c, ...) of the mixture; from the prior the path is p(z) p(x | z)^beta
    with c summed out of both. Seed 0, 300 chains, 16 data: |z| < 3.5 for the mean weight of each. The guide
    is N(0, I), which covers all of them."""
    pair = registry.find(f"{PROOFS / 'mixture.py'}:PAIR")
    batch = sys.modules[getattr(pair.model, "__module__")].data()  # noqa: B009
    built = build(pair, Dataset(name="t", train=Split(batch)))
    with torch.no_grad():
        built.guide.encoder.weight.zero_()  # type: ignore[union-attr]
        built.guide.encoder.bias.zero_()  # type: ignore[union-attr]
    found = annealed(built, batch, chains=300, temperatures=20, leapfrog=2, start=start)
    log_p = mixture_evidence(built.model, batch["x"])
    ratio = (found.log_weight - log_p).exp()
    error = ratio.std(0) / math.sqrt(300)
    assert ((ratio.mean(0) - 1) / error).abs().max() < 3.5
    assert abs(float((found.lower - log_p).mean())) < 0.05


def mixture_evidence(model, x: Tensor) -> Tensor:
    """z | c is Gaussian and x linear in it."""
    with torch.no_grad():
        weight, bias = model.out.weight, model.out.bias
        parts = []
        for c in range(len(model.logits)):
            covariance = weight @ torch.diag((2 * model.raw_scale[c]).exp()) @ weight.T + 0.25 * torch.eye(3)
            loc = weight @ model.loc[c] + bias + model.shift[c]
            normal = torch.distributions.MultivariateNormal(loc, covariance)
            parts.append(model.logits.log_softmax(-1)[c] + normal.log_prob(x))
        return torch.stack(parts).logsumexp(0)


# ---- simulated data


@pytest.mark.parametrize("rows", [True, False])
def test_on_data_of_the_models_own_no_posterior_is_needed(rows):
    """The latents behind the data start the reverse chains: lower <= log p <= upper within 3 standard errors
    over 40 data, and 0.2 nats apart at most; seed 0."""
    built, batch, _ = detuned(40)
    pair = dataclasses.replace(built.pair, posterior=None)
    other = build(pair, None, x_shape=(6,), latent=3).double()
    other.load_state_dict(built.state_dict())
    found = bidirectional(other, 40 if rows else batch, seed=1, **SCHEDULES["guide"])
    assert found.is_simulated
    assert found.summary()["bdmc_simulated"] is True
    assert found.batch["x"].shape == (40, 6)
    assert not torch.equal(found.batch["x"], batch["x"])
    log_p = evidence(built, dict(found.batch))
    assert z_score(found.lower - log_p, 0.0) < 3
    assert z_score(found.upper - log_p, 0.0) > -3
    assert float(found.gap.mean()) < 0.2
    assert abs(float((found.upper - log_p).mean())) < 0.15


def test_all_reverse_chains_start_at_the_latent_behind_the_datum(short_pilot):
    """With one temperature the upper bound is log p(x, z) - log q(z | x) at that z, to 1e-9."""
    built = build(MLP_VAE, dataset(bits()))
    found = bidirectional(built, bits(), chains=3, temperatures=1, seed=5)
    with evaluating(built, 5):
        batch, latents = simulated(built, bits())
        joint = LogJoint(built, batch, 3)
        log_q, log_p = joint.log_densities(joint.unconstrained(latents))
    assert torch.equal(batch["x"], found.batch["x"])
    torch.testing.assert_close(found.upper, (log_p - log_q)[0], rtol=0, atol=1e-9)


def test_conditions_stay_and_only_what_is_observed_is_drawn(short_pilot):
    pair = registry.find(f"{PROOFS / 'sequence.py'}:PAIR")
    batch = sys.modules[getattr(pair.model, "__module__")].data()  # noqa: B009
    built = build(pair, Dataset(name="t", train=Split(batch)))
    with evaluating(built, 0):
        drawn, latents = simulated(built, batch)
    assert torch.equal(drawn["lengths"], batch["lengths"])
    assert torch.equal(drawn["mask"], batch["mask"])
    assert not torch.equal(drawn["x"], batch["x"])
    assert (drawn["x"][~batch["mask"]] == 0).all()
    assert latents["z"].shape == (12, 2)
    found = bidirectional(built, batch, chains=4, temperatures=20, leapfrog=2)
    assert float(found.gap.mean()) > -1.0
    assert torch.isfinite(found.gap).all()


def test_what_cannot_be_simulated_is_refused():
    pair = registry.find(f"{PROOFS / 'undirected.py'}:QUADRATIC")
    with pytest.raises(PairError, match="list those fields in Pair"):
        bidirectional(build(pair), {}, chains=2, temperatures=2)
    pair = registry.find(f"{PROOFS / 'conditional_two_layer.py'}:PAIR")
    two = dataclasses.replace(pair, observed=("x", "y"))
    with pytest.raises(PairError, match="give a batch, not a number"):
        bidirectional(build(two), 5)


# ---- what is left as it was


def test_nothing_is_touched(short_pilot):
    """Parameters, gradients, buffers, training flags and random states: bit for bit; a seed gives its
    numbers."""
    from torch import nn

    class Normed(Encoder):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))

    built = build(Pair(model=MLP, guide=Normed, data=None), dataset(bits()))
    built.train()
    for p in built.parameters():
        p.grad = torch.randn_like(p)
    before = copy.deepcopy(built.state_dict())
    grads = [p.grad.clone() for p in built.parameters() if p.grad is not None]
    flags, state = [m.training for m in built.modules()], torch.get_rng_state()
    one = annealed(built, bits(), chains=3, temperatures=4, seed=1)
    two = bidirectional(built, bits(), chains=3, temperatures=4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[n]) for n, v in built.state_dict().items())
    assert all(
        torch.equal(p.grad, g) for p, g in zip(built.parameters(), grads, strict=True) if p.grad is not None
    )
    assert [m.training for m in built.modules()] == flags
    assert all(p.requires_grad for p in built.parameters())
    assert torch.equal(annealed(built, bits(), chains=3, temperatures=4, seed=1).log_weight, one.log_weight)
    assert not torch.equal(
        annealed(built, bits(), chains=3, temperatures=4, seed=2).log_weight, one.log_weight
    )
    assert torch.equal(bidirectional(built, bits(), chains=3, temperatures=4, seed=1).gap, two.gap)


def test_data_are_cut_into_parts_and_put_together_in_order(monkeypatch, short_pilot):
    """Whatever the memory, each datum gets its own bound: within 0.6 nats of its evidence, which ranges over
    more than 3."""
    built, batch, log_p = detuned(9)
    assert log_p.max() - log_p.min() > 3
    seen = []
    kept = LogJoint.__init__

    def watched(self, *arguments):
        kept(self, *arguments)
        seen.append(self.shape)

    monkeypatch.setattr(LogJoint, "__init__", watched)
    monkeypatch.setitem(
        importance.CHUNK_ELEMENTS, "cpu", 4 * 10 * 9
    )  # 9 data with 6 of 10 chains of 6 numbers
    found = annealed(built, batch, chains=10, temperatures=30, leapfrog=2)
    assert [shape for shape in seen if shape[0] == 10] == [(10, 5), (10, 4)]
    assert found.log_weight.shape == (10, 9)
    assert found.acceptance.shape == (9,)
    assert (found.lower - log_p).abs().max() < 0.6
    found = bidirectional(built, batch, chains=10, temperatures=30, leapfrog=2)
    assert (found.upper - log_p).abs().max() < 0.8
    assert torch.equal(found.batch["x"], batch["x"])


def test_summaries_are_means_over_the_data(short_pilot):
    built, batch, _ = detuned()
    found = annealed(built, batch, chains=3, temperatures=4)
    summary = found.summary()
    assert set(summary) == {"ais_lower", "ais_lower_stderr", "ais_ess", "ais_acceptance"}
    assert summary["ais_lower"] == pytest.approx(float(found.lower.mean()), abs=1e-12)
    assert summary["ais_lower_stderr"] == pytest.approx(float(found.lower.std()) / math.sqrt(20), abs=1e-12)
    both: dict[str, Any] = bidirectional(built, {"x": batch["x"][:1]}, chains=3, temperatures=4).summary()
    assert both["bdmc_gap"] == pytest.approx(both["bdmc_upper"] - both["bdmc_lower"], abs=1e-9)
    assert both["bdmc_gap_stderr"] is None


def test_the_schedule_leads_from_0_to_1():
    betas = schedule(10, "guide")
    assert (betas[0], betas[-1], betas[5]) == (0.0, 1.0, pytest.approx(0.5))
    steps = [b - a for a, b in pairwise(betas)]
    assert steps == pytest.approx(steps[::-1])
    assert steps[0] < steps[1] < steps[4]
    assert schedule(2, "prior") == [0.0, 0.125, 1.0]
    assert schedule(1, "guide") == schedule(1, "prior") == [0.0, 1.0]


@pytest.mark.parametrize("count", [1, 7, 59, 60, 61, 200])
def test_a_pilot_has_a_step_for_each_temperature(count, monkeypatch):
    monkeypatch.setattr(pilot, "transition", lambda point, *_: (point, torch.full((4, 5), 0.65)))
    built = gaussian_toy(0.0, 1.0)
    with evaluating(built, 0):
        steps = pilot.tuned(built, ones(5), [0.5] * count, 2, "guide")
    assert steps.step.shape == (count, 5)
    assert steps.scale.shape == (5, 1)
    assert (steps.scale - 1).abs().max() < 0.5


def test_the_steps_of_a_walk_never_move():
    """What the chains accept changes no step size, or E w would not be p(x)."""
    built = gaussian_toy(0.0, 1.0)
    with evaluating(built, 0):
        betas = schedule(6, "guide")
        steps = pilot.tuned(built, ones(5), betas[1:-1], 2, "guide")
        kept = steps.step.clone(), steps.scale.clone()
        joint = LogJoint(built, ones(5), 3)
        walk = pilot.Walk(joint, betas, 2, steps)
        for _ in forward(joint.point(joint.draw()), betas, walk):
            assert walk.steps is steps
    assert torch.equal(steps.step, kept[0])
    assert torch.equal(steps.scale, kept[1])
    assert ((walk.acceptance > 0) & (walk.acceptance < 1)).all()


@pytest.mark.parametrize("option", ["chains", "temperatures", "leapfrog"])
def test_counts_are_at_least_one(option):
    built = gaussian_toy(0.0, 1.0)
    for function, count in ((annealed, 0), (bidirectional, -1)):
        wrong: dict[str, Any] = {option: count}
        with pytest.raises(UsageError, match=f"{option}={count}: use at least 1"):
            function(built, ones(2), **wrong)

"""The gradient laboratory against models whose gradients are known in closed form."""

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.build import build
from ppvae.comparison import probe
from ppvae.comparison.findings import Laboratory
from ppvae.comparison.participants import seeded
from ppvae.comparison.references import Plain, reference_for, target_of
from ppvae.errors import UsageError
from ppvae.estimators import ELBO, IWAE, Objective, find
from ppvae.estimators.functionals import log_mean_exp, mean
from ppvae.pair import Pair
from ppvae.registry import find as find_pair
from ppvae.runs import strict_json
from tests.comparison.small import numbers, timeless
from tests.toys import GUIDE_B, MLP, MLP_VAE, Encoder, bernoulli_toy, bits, dataset, gaussian_toy, ones

pytestmark = pytest.mark.usefixtures("float64")


class Scaled(ELBO):
    """Its gradient is 1.3 times the right one."""

    def objective(self, terms, knobs):
        found = super().objective(terms, knobs)
        return dataclasses.replace(found, losses={"all": 1.3 * found.losses["all"]})


def probed(built, batch, *texts, **options):
    estimators = {text: find(text) for text in texts}
    return {p.estimator: p for p in probe(built, batch, estimators, **options).probes}


def z(estimate, truth: float) -> float:
    return abs(estimate.value - truth) / estimate.stderr


# ---- against closed forms


def test_the_score_functions_variance_on_the_bernoulli_toy():
    """.216279 per datum, a gradient of .0603155, both in closed form; 600 repeats, seed 0, |z| < 3."""
    found = probed(bernoulli_toy(), ones(1), "elbo", repeats=600)["elbo"]
    guide = found.groups["guide"]
    assert z(guide.variance, 0.216279) < 3
    assert z(guide.norm, 0.0603155) < 3
    assert guide.reference == "exact by enumeration"
    assert abs(guide.z or 9.0) < 3
    assert z(found.bound, -0.899033) < 3


def test_a_batch_divides_the_variance():
    """By its 6 rows, which are drawn independently."""
    guide = probed(bernoulli_toy(), ones(6), "elbo", repeats=600)["elbo"].groups["guide"]
    assert z(guide.variance, 0.216279 / 6) < 3


def test_the_reparameterized_gradient_on_the_gaussian_toy():
    """With z = m + s e and x = 1: d/dm = 1 - 2z, d/dlog s = (1 - 2z) s e + 1. For a = 1 - 2m the variances
    are 4 s^2 and a^2 s^2 + 8 s^4, the means a and 1 - 2 s^2."""
    m, s = GUIDE_B
    guide = probed(gaussian_toy(m, s), ones(1), "elbo", repeats=500)["elbo"].groups["guide"]
    a = 1 - 2 * m
    variance = 4 * s**2 + a**2 * s**2 + 8 * s**4
    assert z(guide.variance, variance) < 3
    norm = math.hypot(a, 1 - 2 * s**2)
    assert z(guide.norm, norm) < 3
    assert guide.snr == pytest.approx(norm / math.sqrt(variance), rel=0.25)
    assert guide.dsnr is None  # two parameters


def test_nothing_but_noise_is_told_as_nothing():
    """At the exact posterior the gradient's mean is 0; the plain norm of the mean is not."""
    guide = probed(gaussian_toy(0.5, math.sqrt(0.5)), ones(1), "elbo", repeats=200)["elbo"].groups["guide"]
    plain = math.sqrt(guide.variance.value / 200)
    assert guide.norm.value < 1.5 * plain
    assert guide.norm.value <= 3 * (guide.norm.stderr or 0.0)
    assert guide.snr < 0.15


def test_a_bias_is_seen_and_its_absence_too():
    """A gradient 30 % too large; |bias| is .3 of the gradient. K = 16, seed 0."""
    built, batch = build(MLP_VAE, dataset(bits(6)), seed=0), bits(6)
    lab = probe(built, batch, {"right": ELBO(particles=16), "wrong": Scaled(particles=16)}, repeats=100)
    right, wrong = lab.probes
    for group in ("model", "guide"):
        assert abs(right.groups[group].z or 9.0) < 3
        assert (wrong.groups[group].z or 0.0) > 4
        assert wrong.groups[group].bias is not None
        assert z(wrong.groups[group].bias, 0.3 * right.groups[group].norm.value) < 4


def test_the_z_of_an_unbiased_estimator_is_a_standard_normal_number():
    """16 laboratories: their mean within 3 / sqrt(16), their spread near 1."""
    found = []
    for seed in range(16):
        guide = probed(gaussian_toy(*GUIDE_B), ones(2), "elbo", repeats=24, seed=seed)["elbo"].groups["guide"]
        found.append(guide.z)
    zs = torch.tensor(found)
    assert abs(float(zs.mean())) < 3 / math.sqrt(16)
    assert 0.5 < float(zs.std()) < 1.6


class Eight(nn.Module):
    """A guide with a vector of parameters."""

    def __init__(self, model=None):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(8))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc.sum(), 1.0))


class Noisy(ELBO):
    """The gradient mean + sd * noise, whatever the pair is."""

    def __init__(self, guide, mean, sd):
        super().__init__()
        self.guide, self.mean, self.sd = lambda: guide, mean, sd

    def objective(self, terms, knobs):
        gradient = self.mean + self.sd * torch.randn(8)
        return Objective(None, {"all": (gradient * self.guide().loc).sum()})


def test_the_directional_ratio_of_isotropic_noise():
    """g = mu + n with n ~ N(0, s^2 I_P), mu = (m, 0, ...): DSNR is E|m + s n_1| E[1 / (s chi_(P-1))]."""
    built = build(dataclasses.replace(gaussian_toy(0.0, 1.0).pair, guide=Eight))
    noisy = Noisy(built.guide, 2.0 * torch.eye(8)[0], 0.5)
    found = probe(built, ones(2), {"noisy": noisy}, repeats=400).probes[0].groups["guide"]
    inverse = math.exp(math.lgamma(3.0) - math.lgamma(3.5)) / math.sqrt(2)  # E[1 / chi_7]
    assert found.dsnr is not None
    assert abs(found.dsnr.value - 2.0 / 0.5 * inverse) < 3 * (found.dsnr.stderr or 0.0) + 0.02
    assert found.norm.value == pytest.approx(2.0, rel=0.05)
    assert found.variance.value == pytest.approx(8 * 0.25, rel=0.1)
    assert found.snr == pytest.approx(2.0 / math.sqrt(2.0), rel=0.1)


def test_a_bias_across_the_gradient_is_seen_as_well():
    """The truth is (2, 0, ...), the estimator's mean (2, .1, 0, ...): 20 repeats with noise of .05 see it."""
    mean = 2.0 * torch.eye(8)[0]
    pair = dataclasses.replace(
        gaussian_toy(0.0, 1.0).pair,
        guide=Eight,
        elbo=lambda model, guide, batch: -(mean * guide.loc).sum()[None],
    )
    built = build(pair)
    estimators = {
        "right": Noisy(built.guide, mean, 0.05),
        "wrong": Noisy(built.guide, mean + 0.1 * torch.eye(8)[1], 0.05),
    }
    right, wrong = (p.groups["guide"] for p in probe(built, ones(2), estimators, repeats=40).probes)
    assert abs(right.z or 9.0) < 3
    assert (wrong.z or 0.0) > 5
    assert wrong.bias is not None
    assert z(wrong.bias, 0.1) < 3


# ---- what it is held against


def label(functional, particles, built, batch) -> str:
    found = reference_for(target_of(functional, particles, "x"), built, batch)
    assert found is not None
    return found.label


def test_references_are_the_best_at_hand():
    assert label(mean, 1, bernoulli_toy(), ones(1)) == "exact by enumeration"
    assert label(log_mean_exp, 5, bernoulli_toy(), ones(1)) == "estimated by 20 draws a repeat"
    built = build(MLP_VAE, dataset(bits(6)))
    assert label(mean, 1, built, bits(6)) == "estimated by 16 draws a repeat"


def test_a_closed_form_is_taken_where_the_pair_has_one():
    pair = dataclasses.replace(gaussian_toy(*GUIDE_B).pair, elbo=gaussian_elbo)
    guide = probed(build(pair, loc=0.25, scale=0.8), ones(1), "elbo", repeats=300)["elbo"].groups["guide"]
    assert guide.reference == "exact in closed form"
    assert abs(guide.z or 9.0) < 3


def gaussian_elbo(model, guide, batch):
    """-1/2 [m^2 + s^2 + (x - m)^2 + s^2 - 1] - log(2 pi)/2 + log s for q = N(m, s^2)."""
    m, s = guide.loc, guide.log_scale.exp()
    square = m**2 + 2 * s**2 + (batch["x"] - m) ** 2 - 1
    return -0.5 * square - 0.5 * math.log(2 * math.pi) + guide.log_scale


def test_the_exact_elbo_is_told():
    pair = dataclasses.replace(gaussian_toy(*GUIDE_B).pair, elbo=gaussian_elbo)
    lab = probe(build(pair, loc=0.25, scale=0.8), ones(2), {"elbo": find("elbo")}, repeats=8)
    assert lab.exact_elbo == pytest.approx(-1.594582, abs=1e-6)


@pytest.mark.parametrize("particles", [1, 2, 5])
def test_the_score_function_reference_is_unbiased(particles):
    """d/dlogit of the importance-weighted bound on the Bernoulli toy, .0603155, .0295595, .0115989 at K = 1,
    2 and 5; 100 repeats on 40 equal data, |z| < 3."""
    truth = {1: 0.0603155, 2: 0.0295595, 5: 0.0115989}[particles]
    toy = bernoulli_toy()
    toy.pair = dataclasses.replace(toy.pair, discrete={})  # not enumerated
    reference = reference_for(target_of(log_mean_exp, particles, "x"), toy, ones(40))
    assert reference is not None
    assert not reference.exact
    found = []
    for repeat in range(100):
        seeded("test", repeat, 0)
        found.append(reference.gradient()["guide"])
    values = -torch.stack(found)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - truth) < 3 * error
    assert error < 0.003


def test_equal_targets_are_one_and_others_are_told_apart():
    assert target_of(log_mean_exp, 1, "a").key == target_of(mean, 7, "b").key == "elbo"
    assert target_of(log_mean_exp, 5, "a").key != target_of(log_mean_exp, 4, "a").key
    mine = target_of(lambda w: w.max(0).values, 3, "mine")
    assert mine.label == "the functional that mine names, K = 3"
    assert mine.key == target_of(lambda w: w.amax(0), 3, "yours").key
    assert mine.key != target_of(lambda w: w.amin(0), 3, "yours").key


def test_an_estimator_without_a_target_has_no_bias():
    class Nameless(ELBO):
        def targets(self):
            return {}

    (found,) = probe(gaussian_toy(*GUIDE_B), ones(1), {"x": Nameless()}, repeats=8).probes
    guide = found.groups["guide"]
    assert (guide.bias, guide.z, guide.reference, guide.target) == (None, None, None, None)
    assert guide.variance.value > 0


def test_a_beta_of_another_target_is_seen_as_a_bias_against_its_word():
    """`elbo:beta=4` says that it climbs the elbo, which it does not."""
    guide = probed(gaussian_toy(*GUIDE_B), ones(3), "elbo:beta=4", repeats=100)["elbo:beta=4"].groups["guide"]
    assert guide.target == "elbo"
    assert (guide.z or 0.0) > 3


def test_a_gradient_without_noise_is_neither_biased_nor_noisy():
    found = probed(bernoulli_toy(), ones(2), "enumeration", repeats=8)["enumeration"].groups["guide"]
    assert found.variance.value == 0.0
    assert found.snr == math.inf
    assert abs(found.z or 0.0) < 3
    assert found.bias is not None
    assert found.bias.value < 1e-12


def test_what_is_within_the_rounding_is_shown_as_zero():
    """On the exact posterior log w is constant: the elbo's gradient has no noise but the arithmetic's."""
    built, batch = build(find_pair("ppca"), numbers(), seed=0), {"x": numbers().train.fields["x"][:9]}
    model = probed(built, batch, "elbo", repeats=8)["elbo"].groups["model"]
    assert 0 < model.variance.value < 1e-20
    shown = model.shown()
    assert (shown.variance.value, shown.variance_time) == (0.0, 0.0)
    assert shown.snr == shown.snr_per_parameter == math.inf
    assert shown.dsnr is not None
    assert shown.dsnr.value == math.inf
    assert shown.bias is not None
    assert (shown.bias.value, shown.bias.stderr) == (0.0, None)
    assert shown.norm == model.norm
    noisy = probed(built, batch, "stl", repeats=8)["stl"].groups["model"]
    assert noisy.shown() == noisy


# ---- what it leaves alone


def batch_norm_vae():
    class Normed(Encoder):
        def __init__(self, model):
            super().__init__(model)
            self.encoder = nn.Sequential(
                nn.Linear(model.size, 5), nn.BatchNorm1d(5), nn.Linear(5, 2 * model.latent)
            )

    return build(Pair(model=MLP, guide=Normed, data=None), dataset(bits(6)), seed=0)


def test_the_pair_and_the_random_state_stay_as_they_are():
    built = batch_norm_vae()
    built.guide.encoder[1].eval()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    modes = {name: module.training for name, module in built.named_modules()}
    estimator = find("elbo")
    state = torch.get_rng_state()
    probe(built, bits(6), {"elbo": estimator, "iwae": find("iwae:k=3")}, repeats=8)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in built.state_dict().items())
    assert {name: module.training for name, module in built.named_modules()} == modes
    assert all(p.grad is None for p in built.parameters())


def test_an_estimators_numbers_do_not_depend_on_who_else_is_there():
    built, batch = build(MLP_VAE, dataset(bits(6))), bits(6)
    alone = probe(built, batch, {"iwae": IWAE(3)}, repeats=8)
    among = probe(built, batch, {"elbo": ELBO(), "iwae": IWAE(3)}, repeats=8)
    again = probe(built, batch, {"iwae": IWAE(3)}, repeats=8)
    other = probe(built, batch, {"iwae": IWAE(3)}, repeats=8, seed=1)
    numbers = [timeless(lab.to_dict())["probes"][-1] for lab in (alone, among, again, other)]
    assert numbers[0] == numbers[1] == numbers[2]
    assert numbers[0] != numbers[3]


class Counting(ELBO):
    """A gradient without noise that grows with every call, and a baseline that learns."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.baseline = nn.Parameter(torch.zeros(()))

    def objective(self, terms, knobs):
        assert isinstance(self.calls, torch.Tensor)
        self.calls += 1
        loss = (self.calls + self.baseline.detach()) * parameter(terms)
        return Objective(None, {"all": loss + (self.baseline - 1.0) ** 2})


def parameter(terms):
    return terms.sites["z"].q.loc.mean()


def test_baselines_settle_first_and_then_rest():
    """Each repeat sees the state that settling left, whatever the one before did to it."""
    built = gaussian_toy(*GUIDE_B)
    estimator = Counting()
    (found,) = probe(built, ones(1), {"counting": estimator}, repeats=8, settle=50).probes
    guide = found.groups["guide"]
    assert found.settled == 50
    assert guide.variance.value == 0.0
    assert 52.2 < guide.norm.value < 53  # the first look, the settling, the repeat, and what was learnt
    assert float(estimator.calls) == 0  # type: ignore[arg-type]
    assert float(estimator.baseline.detach()) == 0


def test_baselines_settle_on_batches_of_their_own():
    seen = []

    class Reading(Counting):
        def objective(self, terms, knobs):
            seen.append(float(terms.sites["x"].value))
            return super().objective(terms, knobs)

    def batch(i):
        return {"x": torch.full((1,), float(i))}  # the probed one holds a 1

    probe(gaussian_toy(*GUIDE_B), ones(1), {"reading": Reading()}, repeats=8, settle=3, settle_on=batch)
    assert seen[:5] == [1.0, 0.0, 1.0, 2.0, 1.0]  # the first look, the settling, the probed batch
    assert set(seen[5:]) == {1.0}


def test_a_target_weighs_as_many_draws_as_the_estimator_makes():
    """PIWAE's model climbs the bound of groups times particles draws."""
    built, batch = build(MLP_VAE, dataset(bits(6))), bits(6)
    found = probe(built, batch, {"piwae": find("piwae:particles=2,groups=3")}, repeats=8).probes[0]
    assert found.groups["model"].target == "importance-weighted bound, K = 6"


def test_the_scheduled_knobs_are_those_of_the_step():
    class Warmed(ELBO):
        def schedule(self, step):
            return {"beta": step / 100}

        def objective(self, terms, knobs):
            return Objective(None, {"all": knobs["beta"] * parameter(terms)})

    found = probe(gaussian_toy(*GUIDE_B), ones(1), {"x": Warmed()}, repeats=8, step=30).probes[0]
    assert found.groups["guide"].norm.value == pytest.approx(0.3)


# ---- refusals and records


def test_what_one_refuses_the_others_do_not_suffer():
    found = probed(bernoulli_toy(), ones(1), "iwae", "elbo", repeats=8)
    assert "needs a reparameterized guide" in (found["iwae"].refused or "")
    assert found["iwae"].groups == {}
    assert found["elbo"].refused is None
    assert found["elbo"].groups["guide"].variance.value > 0


class Unfinite(ELBO):
    """The first three gradients of every four that it is asked for are numbers."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def objective(self, terms, knobs):
        self.calls += 1
        found = super().objective(terms, knobs)
        return dataclasses.replace(
            found, losses={"all": found.losses["all"] * (math.nan if self.calls % 4 == 0 else 1.0)}
        )


class Raising(ELBO):
    """Raises in the call after so many."""

    def __init__(self, after: int = 0, error: type[BaseException] = ValueError):
        super().__init__()
        self.after, self.error = after, error

    def objective(self, terms, knobs):
        self.after -= 1
        if self.after < 0:
            raise self.error("I am\nbroken")
        return super().objective(terms, knobs)


def test_a_gradient_that_is_not_finite_is_no_gradient_without_bias():
    found = probe(
        gaussian_toy(*GUIDE_B), ones(2), {"broken": Unfinite(), "endless": ELBO(beta=math.inf)}, repeats=12
    ).probes
    assert [p.groups for p in found] == [{}, {}]
    assert [p.line for p in found] == [
        "failed: its gradient of the guide is not finite (3 of 12 repeats)",
        "failed: its gradient of the guide is not finite (12 of 12 repeats)",
    ]


@pytest.mark.parametrize("after", [0, 2, 6, 10])
def test_what_one_raises_the_others_do_not_suffer(after):
    """In its first look, while the clock warms up, in the first half of the repeats and in the second."""
    built, batch = gaussian_toy(*GUIDE_B), ones(1)
    alone = probe(built, batch, {"elbo": ELBO()}, repeats=8).probes[0]
    broken, elbo = probe(built, batch, {"broken": Raising(after), "elbo": ELBO()}, repeats=8).probes
    assert broken.failed is not None
    assert broken.failed.startswith(f"{__file__}:")
    assert broken.failed.endswith(": ValueError: I am")
    assert broken.groups == {}
    assert timeless(dataclasses.asdict(elbo)) == timeless(dataclasses.asdict(alone))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_error_of_an_estimator(stop):
    with pytest.raises(stop):
        probe(gaussian_toy(*GUIDE_B), ones(1), {"broken": Raising(6, stop)}, repeats=8)


def test_with_a_traceback_wanted_the_error_goes_up(monkeypatch):
    monkeypatch.setenv("PPVAE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="I am"):
        probe(gaussian_toy(*GUIDE_B), ones(1), {"broken": Raising()}, repeats=8)


@pytest.mark.parametrize("after", [0, 6])
def test_a_truth_that_cannot_be_had_is_told(after, monkeypatch):
    """Before and after the directions are learnt."""
    calls = []

    def short(self, terms, knobs):
        calls.append(1)
        if len(calls) > after:
            raise MemoryError("no memory")
        return real(self, terms, knobs)

    real = Plain.objective
    monkeypatch.setattr(Plain, "objective", short)
    found = probed(gaussian_toy(*GUIDE_B), ones(1), "iwae:k=2", repeats=8)["iwae:k=2"].groups["guide"]
    assert found.variance.value > 0
    assert (found.bias, found.z, found.reference) == (None, None, None)
    assert found.without.startswith("its truth failed: ")
    assert found.without.endswith("MemoryError: no memory")


def test_too_few_repeats():
    with pytest.raises(UsageError, match="repeats=7 tell nothing of a spread"):
        probe(gaussian_toy(*GUIDE_B), ones(1), {"elbo": find("elbo")}, repeats=7)


def test_progress_is_told():
    told = []
    probe(gaussian_toy(*GUIDE_B), ones(1), {"elbo": find("elbo")}, repeats=8, told=lambda *a: told.append(a))
    assert told[0][0] == 1
    assert told[-1] == (16, 16)


def test_what_was_found_survives_json():
    found = probe(bernoulli_toy(), ones(1), {t: find(t) for t in ("elbo", "iwae", "enumeration")}, repeats=8)
    text = strict_json.dumps(found.to_dict(), "laboratory")
    assert Laboratory.from_dict(strict_json.loads(text)) == found

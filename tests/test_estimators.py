"""The laws of the estimators: identities in double precision, and truths with their error and seed stated."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false

import itertools
import math
import types
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae import estimators, registry
from ppvae.build import build
from ppvae.errors import PairError, UsageError
from ppvae.estimators import ELBO, IWAE, AnalyticKL, Claims, Estimator, Objective
from ppvae.estimators.gradients import group_gradients
from ppvae.estimators.objective import with_penalties
from ppvae.pair import Pair, penalty
from ppvae.scoring import score
from tests.test_proof_pairs import PAIRS, REFUSED, make
from tests.toys import (
    GUIDE_A,
    GUIDE_B,
    IWAE_A,
    IWAE_B,
    LOG_P,
    MLP_VAE,
    BernoulliGuide,
    assert_same,
    bernoulli_toy,
    bits,
    dataset,
    gaussian_toy,
    loss_and_gradients,
    made,
    nothing,
    ones,
    pair_names,
    pyro_loss_and_gradients,
    z_score,
)

pytestmark = pytest.mark.usefixtures("float64")
PPCA = ["ppca", "ppca_full", "ppca_mean_field"]


def ppca(name, rows=9):
    torch.manual_seed(11)
    built = build(registry.find(name), seed=3)
    with torch.no_grad():
        built.model.mean.normal_()
        for p in built.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return built, {"x": torch.randn(rows, 10)}


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# log p(x) = ELBO + KL(q, posterior).


@pytest.mark.parametrize("name", PPCA)
def test_every_draw_splits_into_evidence_and_posterior(name):
    """Exact to 1e-9 for every draw and datum: log w = log p(x) + log p(z | x) - log q(z | x), the sum of the
    parts."""
    built, batch = ppca(name)
    terms = built.score(batch, 5)
    z, x = terms.sites["z"], terms.sites["x"]
    evidence = built.pair.evidence(built.model, batch)
    posterior = built.pair.posterior(built.model, batch)["z"]
    close(terms.log_weight, evidence + posterior.log_prob(z.value) - z.q.log_prob(z.value))
    close(terms.log_weight, x.log_p + z.log_ratio)
    close(z.log_p, dist.Normal(0.0, 1.0).log_prob(z.value).sum(-1))
    if name == "ppca":  # the guide is the posterior: no variance at all
        close(terms.log_weight, evidence.expand(5, -1))


@pytest.mark.parametrize("name", PPCA)
def test_evidence_is_elbo_plus_kl_in_closed_form(name):
    """Exact to 1e-9: with E_q[log p(x | z)] and the rate in closed form, what is missing to log p(x) is
    KL(q, posterior). The rate is the site's own where torch knows it: not for a MultivariateNormal against
    independent Normals."""
    built, batch = ppca(name)
    m, x = built.model, batch["x"]
    z = built.score(batch).sites["z"]
    q = z.q if hasattr(z.q, "covariance_matrix") else z.q.base_dist
    covariance = q.covariance_matrix if hasattr(q, "covariance_matrix") else torch.diag_embed(q.scale**2)
    loc = q.loc
    residual = ((x - loc @ m.weight.T - m.mean) ** 2).sum(-1)
    spread = (m.weight @ covariance @ m.weight.T).diagonal(dim1=-2, dim2=-1).sum(-1)
    likelihood = -0.5 * (10 * (2 * math.pi * m.scale**2).log() + (residual + spread) / m.scale**2)
    posterior = built.pair.posterior(m, batch)["z"]
    full = dist.MultivariateNormal(loc, covariance)
    gap = kl_divergence(full, posterior)
    rate = kl_divergence(full, dist.MultivariateNormal(torch.zeros(3), torch.eye(3)))
    close(built.pair.evidence(m, batch), likelihood - rate + gap)
    kl = z.analytic_kl()
    assert (kl is None) == (name != "ppca_mean_field")
    if kl is not None:
        close(kl[0], rate)


# Pyro's own losses, under one seed.


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("name", [*PPCA, "mlp"])
@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [(ELBO, Trace_ELBO, {}), (AnalyticKL, TraceMeanField_ELBO, {}), (IWAE, RenyiELBO, {"alpha": 0})],
)
def test_equals_pyro_in_value_and_gradient(ours, theirs, options, name, particles):
    """Exact to 1e-9: Pyro's loss under plate("data", B) is ours times B, value and every gradient."""
    built, batch = (build(MLP_VAE), bits(7)) if name == "mlp" else ppca(name, 7)
    loss = theirs(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1, **options)
    value, wanted = pyro_loss_and_gradients(loss, built, batch)
    mine, found = loss_and_gradients(ours(particles=particles), built, batch)
    assert float(mine) * 7 == pytest.approx(value, rel=1e-9)
    assert_same(found, wanted, 7)


@pytest.mark.parametrize("ours", [ELBO, AnalyticKL])
def test_global_latents_under_a_subsampled_plate_equal_pyro(ours):
    """Exact to 1e-9: with plate("data", N = 20, subsample_size = 5) and a global w, Pyro's loss is ours
    times N."""
    x, y = torch.randn(20), torch.randn(20)

    def model(**_):
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", 20, subsample_size=5, dim=-1) as rows:
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("y", dist.Normal(w * x[rows] + z, 0.5), obs=y[rows])

    class Guide(torch.nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.w, self.z = (
                torch.nn.Parameter(torch.tensor([0.3, -1.0])),
                torch.nn.Parameter(torch.tensor([0.2, -0.5])),
            )

        def forward(self, **_):
            pyro.sample("w", dist.Normal(self.w[0], self.w[1].exp()))
            with pyro.plate("data", 20, subsample_size=5, dim=-1) as rows:
                pyro.sample("z", dist.Normal(self.z[0] * y[rows], self.z[1].exp()))

    built = build(Pair(model=model, guide=Guide, data=None, observed=()))
    theirs = {ELBO: Trace_ELBO, AnalyticKL: TraceMeanField_ELBO}[ours](max_plate_nesting=1)
    value, wanted = pyro_loss_and_gradients(theirs, built, {})
    mine, found = loss_and_gradients(ours(), built, {})
    assert float(mine) * 20 == pytest.approx(value, rel=1e-9)
    assert_same(found, wanted, 20)


def test_score_function_equals_pyro_per_datum():
    """Exact to 1e-9: without a baseline, Trace_ELBO's own Rao-Blackwellized surrogate is per datum, as ours
    is."""
    built, batch = bernoulli_toy(), {"x": torch.tensor([1.0, 0.0, 1.0, 1.0])}
    value, wanted = pyro_loss_and_gradients(Trace_ELBO(max_plate_nesting=1), built, batch)
    mine, found = loss_and_gradients(ELBO(), built, batch)
    assert float(mine) * 4 == pytest.approx(value, rel=1e-9)
    assert_same(found, wanted, 4)


# The one-dimensional toys.


@pytest.mark.parametrize(("guide", "truths"), [(GUIDE_A, IWAE_A), (GUIDE_B, IWAE_B)], ids=["A", "B"])
@pytest.mark.parametrize("particles", [1, 2, 5, 50])
def test_iwae_on_the_gaussian_toys(guide, truths, particles):
    """1,000,000 / K data, seed 0: within 4 standard errors (at most .02) of the truth by quadrature."""
    built = gaussian_toy(*guide)
    torch.manual_seed(0)
    with torch.no_grad():
        bound = IWAE(particles=particles).estimate(built, ones(1_000_000 // particles)).bound
    error = bound.std() / math.sqrt(len(bound))
    assert error < 0.005
    assert abs(bound.mean() - truths[particles]) < 4 * error + 1e-6
    assert bound.mean() < LOG_P + 4 * error


@pytest.mark.parametrize("estimator", [ELBO, AnalyticKL])
@pytest.mark.parametrize(("beta", "truth"), [(0.5, -1.360258), (4.0, -1.765226)])
def test_beta_optimum_of_the_gaussian_toy(estimator, beta, truth):
    """q* = N(x / (1 + beta), beta / (1 + beta)): value and vanishing gradient, 400,000 data in 100 blocks,
    seed 0, within 4 standard errors. The reported bound keeps beta = 1."""
    built = gaussian_toy(1 / (1 + beta), math.sqrt(beta / (1 + beta)))
    torch.manual_seed(0)
    losses, slopes = [], []
    for _ in range(100):
        loss = estimator(beta=beta).estimate(built, ones(4_000)).losses["all"]
        slopes.append(torch.stack(torch.autograd.grad(loss, list(built.parameters()))))
        losses.append(loss.detach())
    values = torch.stack(losses)  # the sampled ratio has no variance here: log of a constant
    assert (values.mean() + truth).abs() < 4 * values.std() / 10 + 1e-6
    assert z_score(torch.stack(slopes), 0.0).abs().max() < 4
    torch.manual_seed(1)
    objective = estimator(beta=beta).estimate(built, ones(5))
    torch.manual_seed(1)
    close(objective.bound, estimator().estimate(built, ones(5)).bound)


def test_free_bits_stop_the_rate_and_leave_the_bound():
    """Exact to 1e-9: below the floor the loss is distortion + floor and the prior pulls no more; the bound
    is as before."""
    built, batch = gaussian_toy(*GUIDE_B), ones(6)
    torch.manual_seed(0)
    plain = AnalyticKL().estimate(built, batch)
    for floor, stopped in ((10.0, True), (1e-4, False)):
        torch.manual_seed(0)
        terms = built.score(batch)
        objective = AnalyticKL(free_bits=floor).objective(terms, {})
        close(objective.bound, plain.bound)
        rate = terms.sites["z"].analytic_kl().mean()
        close(objective.losses["all"], -terms.log_likelihood.mean() + (floor if stopped else rate))
        slope = torch.autograd.grad(objective.losses["all"], built.guide.loc, retain_graph=True)[0]
        wanted = (
            -terms.log_likelihood.mean()
            if stopped
            else plain.losses["all"] * 0 - terms.log_likelihood.mean() + rate
        )
        close(slope, torch.autograd.grad(wanted, built.guide.loc)[0])


def test_bernoulli_toy_enumerated():
    """To 1e-6: in the model log p and the posterior's entropy; under the guide ELBO, KL and d ELBO / d logit
    q."""
    built, x = bernoulli_toy(nothing, "enumerate"), ones(1)
    for estimator in (ELBO(), AnalyticKL(), IWAE(particles=1), IWAE(particles=4)):
        assert estimator.estimate(built, x).bound.item() == pytest.approx(-0.891598, abs=1e-6)
    posterior = 0.658537
    entropy = -posterior * math.log(posterior) - (1 - posterior) * math.log(1 - posterior)
    assert built.score(x).sites["z"].log_q.item() == pytest.approx(-entropy, abs=1e-6)
    built = bernoulli_toy(how="enumerate")
    loss, found = loss_and_gradients(ELBO(), built, x)
    assert -loss.item() == pytest.approx(-0.899033, abs=1e-6)
    assert -0.891598 + loss.item() == pytest.approx(0.007435, abs=1.1e-6)
    assert -found["guide.logit"].item() == pytest.approx(0.0603155, abs=1e-6)


def test_score_function_is_unbiased_on_the_bernoulli_toy():
    """100,000 single draws, seed 0: mean within 4 standard errors of .0603155, variance within 3 % of
    .216279."""
    built = bernoulli_toy()
    # A logit for each datum gives the single-sample gradients apart.
    logits = torch.logit(torch.full((100_000,), 0.6)).requires_grad_()
    built.guide.logit = torch.nn.Parameter(logits.detach())
    torch.manual_seed(0)
    objective = ELBO().estimate(built, ones(100_000))
    (slope,) = torch.autograd.grad(objective.losses["all"], built.guide.logit)
    draws = -slope * 100_000
    assert z_score(draws, 0.0603155).abs() < 4
    assert draws.var().item() == pytest.approx(0.216279, rel=0.03)
    assert isinstance(built.guide, BernoulliGuide)


def test_global_score_latent_is_unbiased_over_mini_batches():
    """c ~ Bernoulli(.3) once, x_b ~ N(c, 1), N = 12 in batches of 4: 150 blocks of 400 draws each, seed 0,
    within 4.5 standard errors of the gradient by enumerating c over all data."""
    x = torch.linspace(-1, 2, 12)

    def model(x=None):
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    class Guide(torch.nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.logit = torch.nn.Parameter(torch.tensor(0.4))

        def forward(self, x):
            pyro.sample("c", dist.Bernoulli(logits=self.logit))

    built = build(Pair(model=model, guide=Guide, data=None))
    built.num_data = 12
    q, prior = dist.Bernoulli(logits=built.guide.logit), dist.Bernoulli(torch.tensor(0.3))
    elbo = torch.zeros(())
    for c in (torch.tensor(0.0), torch.tensor(1.0)):
        inside = dist.Normal(c, 1.0).log_prob(x).sum() + prior.log_prob(c) - q.log_prob(c)
        elbo = elbo + q.log_prob(c).exp() * inside
    truth = torch.autograd.grad(-elbo / 12, built.guide.logit)[0]
    torch.manual_seed(0)
    draws = []
    for i in range(150):
        rows = torch.arange(12).reshape(3, 4)[i % 3]
        loss = ELBO(particles=400).estimate(built, {"x": x[rows]}).losses["all"]
        draws.append(torch.autograd.grad(loss, built.guide.logit)[0])
    # Blocks over the three batches are the independent draws.
    assert z_score(torch.stack(draws).reshape(50, 3).mean(1), truth).abs() < 4.5


@pytest.mark.parametrize(
    "estimator", [ELBO(), ELBO(2), AnalyticKL(), IWAE(3)], ids=lambda e: type(e).__name__
)
def test_local_mini_batches_average_to_the_full_batch(estimator):
    """Exact to 1e-9 with the guide's noise fixed: the mean over a partition equals the full batch, value and
    gradient."""
    noise = torch.randn(estimator.particles, 12, 2)
    built, batch = build(MLP_VAE), bits(12)

    def run(rows):
        def guide(x):
            loc, raw = built.guide.encoder(x).chunk(2, -1)
            eps = noise[:, rows] if estimator.particles > 1 else noise[0, rows]
            # A draw with its noise given, and the density it has.
            z = loc + raw.exp() * eps
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", Given(z, dist.Normal(loc.expand_as(z), raw.exp().expand_as(z)).to_event(1)))

        terms = score(built.run_model, guide, {"x": batch["x"][rows]}, particles=estimator.particles)
        loss = estimator.objective(terms, {}).losses["all"]
        return loss.detach(), torch.autograd.grad(loss, list(built.parameters()))

    loss, full = run(torch.arange(12))
    parts = [run(rows) for rows in torch.arange(12).split(3)]
    close(sum(p[0] for p in parts) / 4, loss)
    for i, g in enumerate(full):
        close(sum(p[1][i] for p in parts) / 4, g)


class Given(dist.TorchDistribution):
    """The distribution `law`, whose one draw is known."""

    has_rsample = True
    arg_constraints = {}  # noqa: RUF012  # pyright: ignore

    def __init__(self, value, law):
        self.value, self.law = value, law
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return self

    def rsample(self, sample_shape=()):
        return self.value

    def log_prob(self, value):
        return self.law.log_prob(value)


# Trap 7, K = 1, and what the knobs do.


def test_iwae_reports_the_bound_and_not_the_softmax_sum():
    """Exact: logsumexp - log K, which the softmax-weighted sum of log w is never below."""
    built, batch = ppca("ppca_mean_field", 50)
    torch.manual_seed(0)
    bound = IWAE(particles=7).estimate(built, batch).bound
    torch.manual_seed(0)
    log_w = built.score(batch, 7).log_weight.detach()
    close(bound, log_w.logsumexp(0) - math.log(7))
    overstated = (log_w.softmax(0) * log_w).sum(0)
    assert (overstated > bound + 1e-6).all()
    torch.manual_seed(0)
    single = IWAE(particles=1).estimate(built, batch)
    torch.manual_seed(0)
    close(single.bound, ELBO().estimate(built, batch).bound)


def test_knobs_win_over_constructor_arguments():
    built, batch = ppca("ppca_full")
    for cls in (ELBO, AnalyticKL, IWAE):
        torch.manual_seed(0)
        scheduled = cls(particles=2, beta=3.0).estimate(built, batch, {"beta": torch.tensor(0.25)})
        torch.manual_seed(0)
        fixed = cls(particles=2, beta=0.25).estimate(built, batch)
        close(scheduled.losses["all"], fixed.losses["all"])
        close(scheduled.bound, fixed.bound)


def test_a_penalty_for_one_group_is_added_to_its_share_of_the_loss():
    """Exact to 1e-9: a penalty on `model` moves the model by ELBO and penalty, the guide by the ELBO
    alone."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.tensor(0.3))

        def forward(self, x=None):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                penalty("size", (self.loc * z) ** 2, group="model")
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    from tests.toys import GaussianGuide

    built = build(Pair(model=Model, guide=GaussianGuide, data=None), loc=0.2, scale=0.7)
    torch.manual_seed(0)
    terms = built.score(ones(4), 2)
    elbo, size = -terms.log_weight.mean(), terms.penalties["size"].value
    torch.manual_seed(0)
    objective = ELBO(particles=2).estimate(built, ones(4))
    found = {id(p): g for p, g in group_gradients(objective, built)}
    close(found[id(built.model.loc)], torch.autograd.grad(elbo + size, built.model.loc, retain_graph=True)[0])
    close(found[id(built.guide.loc)], torch.autograd.grad(elbo, built.guide.loc, retain_graph=True)[0])
    loss, _ = loss_and_gradients(ELBO(particles=2), built, ones(4))
    close(loss, elbo.detach())
    terms.penalties["size"].group = "modle"
    with pytest.raises(PairError, match="'modle', did you mean 'model'"):
        with_penalties(ELBO().objective(terms, {}), terms)


def test_metrics_add_up():
    built, batch = ppca("ppca_full")
    objective = ELBO(particles=3).estimate(built, batch)
    m = objective.metrics
    close(m["elbo"], objective.bound.mean())
    close(m["elbo"], -m["distortion"] - m["rate"])
    assert not any(value.requires_grad for value in m.values())


# Names.


def test_estimators_are_found_by_name():
    assert estimators.find("iwae:k=50").particles == 50
    assert estimators.find("elbo:beta=4").beta == 4
    assert estimators.find("elbo:free_bits=0.5,particles=2").free_bits == 0.5
    with pytest.raises(UsageError, match="did you mean 'iwae'"):
        estimators.find("iwea")
    with pytest.raises(UsageError, match="did you mean 'particles'"):
        estimators.find("iwae:particle=3")
    with pytest.raises(UsageError, match="did you mean 'iwae'"):
        estimators.find("IWAE:k=5")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("iwae:k=0", "a whole number of draws per datum, 1 or more"),
        ("iwae:particles=2.5", "particles=2.5 is not a whole number"),
        ("pyro:Trace_ELBO,k=2.5", "particles=2.5 is not a whole number"),
        ("miwae:groups=nan", "groups=nan is not a whole number"),
        ("enumeration:limit=nan", "limit=nan is not a whole number"),
        ("enumeration:limit=0", "limit=0: a datum has one joint state or more"),
        ("nvil:normalize=maybe", "normalize=maybe is not true or false"),
        ("nvil:hidden=0", "at least one hidden unit"),
        ("relax:hidden=0", "at least one hidden unit"),
        ("iwae:beta=inf", "beta=inf is not a finite number"),
        ("renyi:alpha=nan", "alpha=nan is not a finite number"),
        ("iwae:beta=-1", "beta=-1 would reward the rate"),
        ("elbo:free_bits=-3", "free_bits=-3"),
        ("mmd:weight=-1", "drive the codes away from the prior"),
        ("mmd:length=foo", "length=foo is not a finite number"),
        ("gumbel:density=3", "density=3 is not a word"),
        ("iwae:k=5,particles=3", "gives particles twice"),
        ("elbo:z=score,z=reparameterized", "gives z twice"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(text, said):
    with pytest.raises(UsageError, match=said):
        estimators.find(text)


def test_options_of_the_right_kind_are_taken():
    assert estimators.find("iwae:k=1e1").particles == 10
    assert estimators.find("elbo:beta=2").beta == 2
    assert estimators.find("mmd:length=2").length == 2
    assert estimators.find("rebar:learn=false").learn is False


def returns(make):
    class Mine(ELBO):
        def objective(self, terms, knobs):
            return make(terms)

    return Mine()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda terms: None, "Mine.objective returned a NoneType"),
        (lambda terms: {"all": terms.log_weight.mean()}, "Mine.objective returned a dict"),
        (lambda terms: Objective(None, {"all": terms.log_weight}), "the loss 'all' of Mine is no scalar"),
        (
            lambda terms: Objective(None, {"all": terms.log_weight.mean()}, {"x": terms.log_weight}),
            "the metric 'x' of Mine is no scalar",
        ),
        (lambda terms: Objective(None, {"gide": terms.log_weight.mean()}), "'gide'.*did you mean 'guide'"),
        (lambda terms: Objective(None, {"all": terms.log_weight.mean().detach()}), "no loss .* reaches"),
    ],
)
def test_what_an_objective_returns_is_looked_at(made, said):
    built, batch = build(MLP_VAE, dataset(bits(6))), bits(6)
    estimator = returns(made)
    with pytest.raises(PairError, match=said):
        group_gradients(estimator.estimate(built, batch), built, estimator)


def test_claims_and_a_missing_objective_are_looked_at():
    upward: Any = types.SimpleNamespace(bound="upward", biased=())  # past the checks of types in tests
    with pytest.raises(UsageError, match="bound='upward'"):
        Claims.__post_init__(upward)
    with pytest.raises(UsageError, match="names 'gide'"):
        Claims(biased=("gide",))
    built, batch = build(MLP_VAE, dataset(bits(6))), bits(6)
    with pytest.raises(PairError, match="Estimator defines no objective"):
        Estimator().estimate(built, batch)


# No host synchronization inside the step.

WAITS = ("_local_scalar_dense", "nonzero", "item", "masked_select", "is_nonzero", "unique", "equal")


class Waits(TorchDispatchMode):
    """Collects the operators that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name in WAITS or name.startswith("unique"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def waits(run) -> list[str]:
    with pyro.validation_enabled(False), Waits() as mode:
        run()
    return mode.found


def test_the_counter_sees_a_wait():
    x = torch.ones(3)
    assert waits(lambda: x.sum().item()) == ["_local_scalar_dense"]
    assert "_local_scalar_dense" in waits(lambda: bool((x > 0).any()))
    assert "nonzero" in waits(lambda: x.nonzero())
    assert "masked_select" in waits(lambda: x.masked_select(x > 0))
    built, batch = ppca("ppca_full")
    assert waits(
        lambda: Trace_ELBO(max_plate_nesting=1).loss_and_grads(built.run_model, built.run_guide, **batch)
    )


@pytest.mark.parametrize("place", [*pair_names(), *PAIRS])
def test_no_step_waits_for_the_device(place):
    """Scoring, objective, group gradients and backward of every estimator that takes the pair, validation
    off."""
    torch.set_default_dtype(torch.float32)
    built, batch = made(place) if ":" not in place else make(place)[1:]
    built.train()
    ran = 0
    for cls, particles in itertools.product(estimators.ESTIMATORS.values(), (1, 3)):
        try:
            estimator = cls(particles=particles)
        except ValueError:  # pairs of draws, say, cannot be one
            continue
        try:
            loss_and_gradients(estimator, built, batch)  # the first, validated step
        except PairError:
            core = cls in (ELBO, AnalyticKL, IWAE)
            assert not core or ":" not in place or (place, cls.__name__) in REFUSED
            continue
        knobs = {"beta": torch.tensor(0.5), "free_bits": torch.tensor(0.1)}

        def step(estimator=estimator, knobs=knobs):
            objective = estimator.estimate(built, batch, knobs)
            group_gradients(objective, built, estimator)
            objective = estimator.estimate(built, batch)
            sum(objective.losses.values()).backward()

        assert waits(step) == [], f"{cls.__name__} K={particles}"
        ran += 1
    assert ran >= 2

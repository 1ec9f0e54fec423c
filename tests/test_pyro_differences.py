"""Where stock Pyro is wrong for a pair with one latent a datum: each fault in as few lines as show it.

Should one of these tests fail after an update, Pyro has mended it: drop its row from docs/pyro.md.
"""
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import itertools
import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.importance import psis_diagnostic

from ppvae.errors import PairError
from ppvae.estimators import ELBO, IWAE, VIMCO, AsPyro

pytestmark = pytest.mark.usefixtures("float64")
LOG_P = dist.Normal(0.0, math.sqrt(2.0)).log_prob(torch.tensor(1.0)).item()  # of x = 1 under the model below


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def by(loss, model, guide, *args, seed=0):
    torch.manual_seed(seed)
    return loss.differentiable_loss(model, guide, *args)


def vectorized(loss, particles, **options):
    return loss(num_particles=particles, vectorize_particles=True, max_plate_nesting=1, **options)


def test_a_subsampled_plate_breaks_renyi_elbo():
    """20,000 data in a batch, N = 80,000, K = 2, seed 0, standard error .01. RenyiELBO multiplies log w by
    N / B inside the logsumexp: a Renyi bound of alpha = 1 - N / B, here -1.4592 and no lower bound."""

    def subsampled(fn):
        def wrapped(x):
            with poutine.scale(scale=4.0):
                fn(x)

        return wrapped

    x = torch.ones(20_000)
    torch.manual_seed(0)
    loss = vectorized(RenyiELBO, 2, alpha=0)
    value = -loss.loss(subsampled(model), subsampled(guide), x) / 80_000
    assert value > LOG_P + 0.03
    with pytest.raises(PairError, match="cannot take the scale"):
        by(AsPyro(IWAE(2)), subsampled(model), subsampled(guide), x)


def test_wake_sleep_weighs_the_batch_as_one_datum():
    """Exact to 1e-9 under one seed: its wake loss is logsumexp_k of sums over the batch. Per datum, the bound
    of 500 independent data would be near 500 times that of one; the joint one is near K = 1's."""
    x, k = torch.ones(500), 10
    torch.manual_seed(0)
    wake, _ = vectorized(ReweightedWakeSleep, k, model_has_params=False).loss(model, guide, x)
    torch.manual_seed(0)
    with pyro.plate("particles", k, dim=-2):
        trace: Any = poutine.trace(guide).get_trace(x)
        replayed: Any = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x)
    trace.compute_log_prob()
    replayed.compute_log_prob()
    z, obs = replayed.nodes["z"]["log_prob"], replayed.nodes["x"]["log_prob"]
    log_w = z + obs - trace.nodes["z"]["log_prob"]
    joint = log_w.sum(1).logsumexp(0) - math.log(k)
    per_datum = (log_w.logsumexp(0) - math.log(k)).sum()
    assert -float(wake) == pytest.approx(float(joint), rel=1e-9)
    assert per_datum - joint > 50
    assert -float(by(AsPyro(IWAE(k)), model, guide, x)) == pytest.approx(float(per_datum), rel=1e-9)


def test_the_ranks_of_tail_adaptive_elbo_are_no_ranks():
    """Exact: rank 1 is the largest weight's, and beta = -1 weighs particles by 1 / rank. Pyro takes argsort,
    the places of the sorted particles, for the ranks: here the least particle gets the largest weight.
    Its `loss` raises, and its value is inf."""
    log_w = torch.tensor([0.3, -1.0, 2.0, 0.5], requires_grad=True)
    loss = vectorized(TraceTailAdaptive_ELBO, 4)
    with pyro.validation_enabled(False):
        surrogate = loss._differentiable_loss_particle(_trace(log_w), _trace(torch.zeros(4)))[1]
    found = -torch.autograd.grad(surrogate, log_w)[0]
    by_rank = 1.0 / torch.tensor([3.0, 4.0, 1.0, 2.0])
    by_place = 1.0 / torch.tensor([2.0, 1.0, 4.0, 3.0])
    assert (by_rank / by_rank.sum()).argmax() == log_w.argmax()
    torch.testing.assert_close(found, by_place / by_place.sum(), rtol=1e-9, atol=1e-9)
    with pytest.raises(NotImplementedError):
        loss.loss(model, guide, torch.ones(1))


def _trace(log_prob):
    trace: Any = poutine.Trace()
    trace.add_node("z", name="z", type="sample", log_prob=log_prob)
    return trace


def test_a_latent_that_the_guide_forgot_comes_from_the_prior():
    """With validation off, Pyro says nothing, and maximizes E_p[log p(x | z) + log p(z)]: no bound, since no
    log q is there to answer log p(z). 100,000 draws, seed 0, 4 standard errors."""
    x = torch.ones(100_000)
    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(0)
        value = -Trace_ELBO(max_plate_nesting=1).loss(model, lambda x: None, x) / len(x)
    assert value == pytest.approx(-1.918939 - 1.418939, abs=0.03)
    with pytest.raises(PairError, match="'z' is missing from the guide"):
        by(AsPyro(ELBO()), model, lambda x: None, x)


def test_shapes_that_broadcast_are_scored_without_a_word():
    """(16,) data against a (16, 1) loc: each of 256 pairs is scored."""
    x, loc = torch.zeros(16), torch.zeros(16, 1)

    def broadcast(x):
        with pyro.plate("data", 16, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(loc + z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    value = Trace_ELBO(max_plate_nesting=1).loss(broadcast, guide, x)
    assert math.isfinite(value)
    with pytest.raises(PairError, match="would broadcast silently"):
        by(AsPyro(ELBO()), broadcast, guide, x)


@pytest.mark.parametrize("loss", [TraceEnum_ELBO, Trace_ELBO])
def test_guessing_the_plates_draws_random_numbers(loss):
    """Exact: without max_plate_nesting the first call draws more than the second, which ruins an exact
    resume."""
    elbo = loss(num_particles=2, vectorize_particles=True)
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        elbo.loss(model, guide, torch.ones(3))
        seen.append(torch.rand(()).item())
    assert seen[0] != seen[1]


def test_trace_mean_field_loses_the_density_of_a_point():
    """Quadrature; x = .3, 20,000 draws, seed 0, standard error .01: the value lies a nat above log p(x)."""
    rows = 20_000

    def positive(x):
        with pyro.plate("data", rows, dim=-1):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    def through_a_point(x):
        with pyro.plate("data", rows, dim=-1):
            loc = math.log(0.3) + torch.zeros(())
            u = pyro.sample("u", dist.Normal(loc, 0.3), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u))

    grid = torch.linspace(-8, 5, 20_001)
    joint = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid.exp(), 0.1).log_prob(torch.tensor(0.3))
    evidence = float(joint.logsumexp(0)) + math.log(13 / 20_000)
    torch.manual_seed(0)
    loss = TraceMeanField_ELBO(max_plate_nesting=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = -loss.loss(positive, through_a_point, torch.full((rows,), 0.3)) / rows
    assert value > evidence + 0.5


def bit_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)


def test_renyi_elbo_leaves_the_score_function_out():
    """Exact: at alpha = 0, the default, the guide's gradient is zero for every draw; ours has none but the
    right one, which tests of `vimco` hold, and `renyi` refuses."""

    def bit_guide(x):
        logit = pyro.param("logit", torch.tensor(0.3))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    x = torch.full((100,), 1.7)
    bit_guide(x)
    logit = pyro.param("logit")
    torch.manual_seed(0)
    vectorized(RenyiELBO, 5, alpha=0).loss_and_grads(bit_model, bit_guide, x)
    assert logit.grad is not None
    assert logit.grad.abs() < 1e-12
    loss = by(AsPyro(VIMCO(5)), bit_model, bit_guide, x)
    assert torch.autograd.grad(loss, logit)[0].abs() > 0.1
    with pytest.raises(PairError, match="needs a reparameterized guide"):
        by(AsPyro(IWAE(5)), bit_model, bit_guide, x)


def test_trace_elbo_forgets_the_entropy_of_an_auxiliary_bit():
    """20,000 data, seed 0: the gradient of the entropy, exact, lies within .01 of ours, and Pyro's at 0."""
    found = {}
    for name, loss in (("ours", AsPyro(ELBO())), ("pyro", Trace_ELBO(max_plate_nesting=1))):
        logit = torch.tensor(0.8, requires_grad=True)

        def auxiliary(x, logit=logit):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("u", dist.Bernoulli(logits=logit), infer={"is_auxiliary": True})
                pyro.sample("z", dist.Normal(0.5 * x, 0.5))

        x = torch.full((20_000,), 0.8)
        value = by(loss, model, auxiliary, x)
        found[name] = -torch.autograd.grad(value, logit)[0] / len(x)
    logit = torch.tensor(0.8, requires_grad=True)
    (exact,) = torch.autograd.grad(dist.Bernoulli(logits=logit).entropy(), logit)
    assert abs(found["ours"] - exact) < 0.01
    assert abs(found["pyro"]) < 0.01 < abs(exact) / 10


def test_a_plate_whose_elements_read_each_other_misleads_the_score_function():
    """Two bits in a plate, each decoding the other's x; 20,000 data, seed 0. Exact by the two states of a
    bit: ours is right within .05; Trace_ELBO, which charges each bit its own element alone, is not."""
    rows, p = 20_000, torch.tensor(0.3)

    def crossed(x):
        with pyro.plate("data", x.shape[-1], dim=-1), pyro.plate("inner", 2, dim=-2):
            z = pyro.sample("z", dist.Bernoulli(p))
            pyro.sample("x", dist.Normal(2 * z.flip(-2), 1.0), obs=x)

    found = {}
    for name, loss in (
        ("ours", AsPyro(ELBO(), plates=2)),
        ("pyro", Trace_ELBO(max_plate_nesting=2)),
    ):
        logit = torch.tensor(0.3, requires_grad=True)

        def bits_guide(x, logit=logit):
            with pyro.plate("data", x.shape[-1], dim=-1), pyro.plate("inner", 2, dim=-2):
                pyro.sample("z", dist.Bernoulli(logits=logit))

        value = by(loss, crossed, bits_guide, torch.tensor([[1.7], [1.5]]).expand(2, rows))
        found[name] = -torch.autograd.grad(value, logit)[0] / rows
    logit = torch.tensor(0.3, requires_grad=True)
    q, prior, exact = dist.Bernoulli(logits=logit), dist.Bernoulli(p), torch.zeros(())
    for x, z in itertools.product((1.7, 1.5), (0.0, 1.0)):
        log_w = dist.Normal(2 * z, 1.0).log_prob(torch.tensor(x)) + prior.log_prob(torch.tensor(z))
        log_q = q.log_prob(torch.tensor(z))
        exact = exact + log_q.exp() * (log_w - log_q)
    (wanted,) = torch.autograd.grad(exact, logit)
    assert abs(found["ours"] - wanted) < 0.05
    assert abs(found["pyro"] - wanted) > 0.1


def test_enumeration_takes_all_elements_of_a_plate_for_one():
    """Exact, by the four joint states of two bits in a plate, whose sum is read outside it."""
    x, p = torch.tensor([1.7, 0.2]), 0.3

    def summed(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("inner", 2, dim=-2):
                c = pyro.sample("c", dist.Bernoulli(p), infer={"enumerate": "parallel"})
            total = c.sum(-2, keepdim=True) if c.shape[-2] == 2 else 2 * c
            pyro.sample("x", dist.Normal(total, 1.0), obs=x)

    states = [(i, j) for i in (0, 1) for j in (0, 1)]
    joint = [
        math.log(p ** (i + j) * (1 - p) ** (2 - i - j)) + dist.Normal(float(i + j), 1.0).log_prob(x)
        for i, j in states
    ]
    exact = -torch.stack(joint).logsumexp(0).sum()
    value = TraceEnum_ELBO(max_plate_nesting=2).loss(summed, lambda x: None, x)
    assert abs(value - float(exact)) > 1


def test_one_k_hat_for_all_data():
    """The guide is the posterior of 49 data and hopeless for one: psis_diagnostic has one number, of the
    joint weights."""
    x = torch.cat([torch.ones(49), torch.full((1,), 30.0)])

    def good(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * torch.ones(len(x)), math.sqrt(0.5)))

    torch.manual_seed(0)
    k = psis_diagnostic(model, good, x, num_particles=1000, max_plate_nesting=1)
    assert isinstance(k, float)
    torch.manual_seed(0)
    assert psis_diagnostic(model, good, x[:49], num_particles=1000, max_plate_nesting=1) < k

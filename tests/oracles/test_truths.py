"""The oracles' own truths against closed forms, published numbers and other ways to compute them."""
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalCall=false

import math

import pytest
import torch

from ppvae.estimators.functionals import log_mean_exp, mean
from ppvae.oracles import truths
from ppvae.oracles.nodes import Unknown, multisets, places, product, reals, states, tuples
from ppvae.oracles.problems import PROBLEMS
from ppvae.oracles.subjects import MAX_PARAMETERS, named, oracles
from ppvae.oracles.truths import evidence, is_homogeneous, is_mean, is_symmetric, truth
from tests.toys import GUIDE_A, GUIDE_B, IWAE_A, IWAE_B, LOG_P

pytestmark = pytest.mark.usefixtures("float64")


def at_one(name, **sizes):
    """A problem at x = 1, where its numbers are known."""
    return named(name, **sizes).built, {"x": torch.ones(1)}


def half_renyi(log_weight):
    """The Renyi bound of alpha = 1/2: 2 log (1/K) sum_k w_k^(1/2)."""
    return 2 * log_mean_exp(0.5 * log_weight)


def first(log_weight):
    """No symmetric functional, of which the mean is that of one draw."""
    return log_weight[0]


# Numbers.


@pytest.mark.parametrize(
    ("particles", "value"), [(1, -0.899033), (2, -0.895254), (5, -0.893041), (10, -0.892316), (50, -0.891741)]
)
def test_bernoulli_bounds(particles, value):
    built, batch = at_one("one_bit")
    found = truth(built, batch, log_mean_exp, particles)
    assert found.value.item() == pytest.approx(value, abs=1e-6)
    assert found.value_error.item() == 0


@pytest.mark.parametrize(("particles", "slope"), [(1, 0.0603155), (2, 0.0295595), (5, 0.0115989)])
def test_bernoulli_slopes(particles, slope):
    """d / d logit q."""
    built, batch = at_one("one_bit")
    assert truth(built, batch, log_mean_exp, particles).gradient["guide.logits"][0].item() == pytest.approx(
        slope, abs=1e-7
    )


@pytest.mark.parametrize(("guide", "values"), [(GUIDE_A, IWAE_A), (GUIDE_B, IWAE_B)], ids=["A", "B"])
@pytest.mark.parametrize("particles", [1, 2, 5, 50])
def test_gaussian_bounds(guide, values, particles):
    """By a grid to 1e-6 up to K = 5 (3e-6 for the wide guide there); by nets at K = 50 within 4 errors."""
    built, batch = at_one("gaussian", weight=0.0, loc=guide[0], scale=guide[1])
    found = truth(built, batch, log_mean_exp, particles)
    error = found.value_error.item()
    assert (error > 0) == (particles == 50)
    assert error < 2e-4
    assert found.value.item() == pytest.approx(values[particles], abs=3e-6 + 4 * error)


def test_renyi_of_two():
    built, batch = at_one("gaussian", weight=0.0, loc=0.0, scale=1.0)
    assert truth(built, batch, half_renyi, 2).value.item() == pytest.approx(-1.755357, abs=1e-6)


def test_evidence():
    """Closed forms, and the sum over nodes where the pair says none: mean of w under q."""
    assert evidence(*at_one("one_bit")).item() == pytest.approx(-0.891598, abs=1e-6)
    assert evidence(*at_one("gaussian")).item() == pytest.approx(LOG_P, abs=1e-6)
    for name in ("gaussian", "two_layers", "mixture", "guided_mixture"):
        oracle = named(name)
        found = places(oracle.built, oracle.batch)
        nodes = product(oracle.built, oracle.batch, found, 64 if reals(found) == 1 else 48)
        summed = (nodes.log_weight + nodes.weight.log()).logsumexp(0)
        torch.testing.assert_close(nodes.weight.sum(0), torch.ones(2))
        model = oracle.built.model
        if "mixture" in name:
            share = torch.stack([-model.logit, model.logit]).sigmoid()
            spread = (1 + (2 * model.log_noise).exp()).sqrt()
            log_prob = torch.distributions.Normal(model.locs, spread).log_prob(oracle.batch["x"][:, None])
            wanted = (log_prob + share.log()).logsumexp(1)
        else:
            wanted = oracle.built.pair.evidence(model, oracle.batch)
        torch.testing.assert_close(summed, wanted, rtol=1e-6, atol=1e-6)


# Two ways to one number.


@pytest.mark.parametrize("name", ["ppca_full", "ppca_mean_field", "conjugate_mixture", "noisy_or"])
def test_a_pairs_own_elbo_is_the_sum_over_its_nodes(name):
    """Value and every derivative to 1e-8; the mean of a quadratic is exact on any grid."""
    (oracle,) = (o for o in oracles() if o.name == name)
    found = places(oracle.built, oracle.batch)
    if states(found) * 16 ** reals(found) > truths.MAX_NODES:
        pytest.skip("too many nodes")
    exact = truth(oracle.built, oracle.batch, mean, 3)
    nodes = product(oracle.built, oracle.batch, found, 16)
    summed = truths._exact(oracle.built, (nodes.weight * nodes.log_weight).sum(0))
    torch.testing.assert_close(summed.value, exact.value, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(summed.gradient, exact.gradient, rtol=1e-8, atol=1e-8)


def test_nets_agree_with_the_grid(monkeypatch):
    """Two layers, K = 2: value and every derivative within 5 of the nets' own errors, which are small."""
    oracle = named("two_layers")
    grid = truth(oracle.built, oracle.batch, log_mean_exp, 2)
    monkeypatch.setattr(truths, "MAX_TUPLES", 10)
    nets = truth(oracle.built, oracle.batch, log_mean_exp, 2)
    assert float(nets.value_error.max()) < 1e-3
    assert float(((nets.value - grid.value) / nets.value_error).abs().max()) < 5
    for name, wanted in grid.gradient.items():
        z = (nets.gradient[name] - wanted) / nets.gradient_error[name].clamp(min=1e-12)
        assert float(z.abs().max()) < 5, name


def test_all_tuples_and_all_multisets_agree():
    """On nine joint states, K = 3; and a functional that is not symmetric is summed over tuples."""
    oracle = named("categories")
    found = []
    for symmetric in (True, False):
        nodes = product(oracle.built, oracle.batch, places(oracle.built, oracle.batch), 1)
        found.append(truths._exact(oracle.built, truths._sum(nodes, log_mean_exp, 3, symmetric)))
    torch.testing.assert_close(found[0].value, found[1].value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0].gradient, found[1].gradient, rtol=1e-12, atol=1e-12)
    one, plain = (truth(oracle.built, oracle.batch, f, 3) for f in (first, mean))
    torch.testing.assert_close(one.value, plain.value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.gradient, plain.gradient, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_the_values_own_slope():
    """By central differences of 1e-6, K = 3, in every parameter of a problem of both kinds of latents."""
    oracle = named("guided_mixture")
    found = truth(oracle.built, oracle.batch, log_mean_exp, 2)
    for name, p in oracle.built.named_parameters():
        for i in range(p.numel()):
            sides = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    p.view(-1)[i] += step
                sides.append(truth(oracle.built, oracle.batch, log_mean_exp, 2).value.mean())
                with torch.no_grad():
                    p.view(-1)[i] -= step
            slope = (sides[0] - sides[1]) / 2e-6
            assert found.gradient[name].flatten()[i].item() == pytest.approx(slope.item(), abs=1e-7), name


def test_combinations():
    index, orders = multisets(4, 3)
    assert len(index) == math.comb(6, 3)
    assert orders.sum().item() == pytest.approx(4**3)
    assert dict(zip(map(tuple, index.tolist()), orders.round().tolist(), strict=True))[0, 1, 1] == 3
    assert len(tuples(4, 3)[0]) == 4**3


def test_functionals_are_told_apart():
    assert is_mean(mean, 5)
    assert is_mean(log_mean_exp, 1)
    assert not is_mean(log_mean_exp, 2)
    assert is_symmetric(log_mean_exp, 5)
    assert not is_symmetric(first, 5)
    assert is_homogeneous(mean, 5)
    assert is_homogeneous(first, 5)
    assert not is_homogeneous(log_mean_exp, 5)


def test_too_many_states_are_said():
    oracle = named("belief_net")
    assert states(places(oracle.built, oracle.batch)) == 16
    with pytest.raises(Unknown, match="16 joint states have too many combinations of 20"):
        truth(oracle.built, oracle.batch, log_mean_exp, 20)


def test_the_oracles_are_small_and_in_double_precision():
    found = oracles()
    assert {p.pair.name for p in PROBLEMS} < {oracle.name for oracle in found}
    assert {"ppca", "ppca_mean_field"} < {oracle.name for oracle in found}
    assert len({oracle.name for oracle in found}) == len(found)
    for oracle in found:
        assert sum(p.numel() for p in oracle.built.parameters()) <= MAX_PARAMETERS
        assert all(p.dtype == torch.float64 for p in oracle.built.parameters())
        assert oracle.rows >= 2

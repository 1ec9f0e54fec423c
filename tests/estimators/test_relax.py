"""RELAX: what its nets add to REBAR, whose laws it is held to in test_rebar."""
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import pytest
import torch
from torch import nn

from ppvae.errors import PairError
from ppvae.estimators import REBAR, RELAX, AsPyro
from tests.estimators.test_rebar import SLOPE, bit_vae, one_bit, wild
from tests.toys import assert_same, bernoulli_model, bernoulli_toy, bits, loss_and_gradients, ones

pytestmark = pytest.mark.usefixtures("float64")


def test_starts_as_rebar():
    """Exact to 1e-9 under one seed: nets that give zero change nothing, value and gradient."""
    built, batch = bit_vae(), bits(6)
    made = RELAX(particles=2)
    made.prepare(built, batch)
    loss, found = loss_and_gradients(made, built, batch)
    same, wanted = loss_and_gradients(REBAR(particles=2), built, batch)
    assert loss.item() == pytest.approx(same.item(), rel=1e-9)
    assert_same(found, wanted)


@pytest.mark.parametrize("seed", range(5))
def test_unbiased_with_any_net(seed, monkeypatch):
    """By the integral over u and v, to 1e-6: .0603155 with random nets, beside the relaxation and alone."""
    for eta in (1.0, 0.0):
        made = RELAX(temperature=0.5, eta=eta)
        made.prepare(bernoulli_toy(), ones(2))
        wild(made, bernoulli_toy(), ones(2), seed)
        with monkeypatch.context() as patch:
            mean, _, _ = one_bit(made, patch)
        assert mean == pytest.approx(SLOPE, abs=1e-6)


def test_the_nets_learn_by_the_variance():
    """The second moment's gradient reaches every weight of a random net; to 1e-5 it is that of finite
    differences."""
    built, batch = bit_vae(), bits(6)
    made = wild(RELAX(), built, batch)

    def second_moment():
        torch.manual_seed(1)
        return made.estimate(built, batch).losses["estimator"]

    weights = list(made.nets.parameters())
    found = torch.autograd.grad(second_moment(), weights, allow_unused=True)
    # A constant added to c changes nothing in c(z) - c(z~), but f - c(z~): it is a baseline.
    assert all(g is not None and g.abs().sum() > 0 for g in found)
    for p, g in zip(weights, found, strict=True):
        at = tuple(0 for _ in p.shape)
        with torch.no_grad():
            p[at] += 1e-4
        up = second_moment().item()
        with torch.no_grad():
            p[at] -= 2e-4
        down = second_moment().item()
        with torch.no_grad():
            p[at] += 1e-4
        assert g[at].item() == pytest.approx((up - down) / 2e-4, rel=1e-5, abs=1e-7)


def test_prepares_once_and_the_same_each_time():
    built, batch = bit_vae(), bits(6)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = RELAX(), RELAX()
    first.prepare(built, batch)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    second.prepare(built, batch)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    nets = list(first.nets)
    first.prepare(built, batch)
    assert list(first.nets) == nets
    assert [m.in_features for m in nets[0].modules() if isinstance(m, nn.Linear)] == [8, 50]


def test_refuses_latents_that_it_has_no_net_for():
    made = RELAX()
    made.prepare(bit_vae(), bits(6))
    with pytest.raises(PairError, match="no net for 'z', but for b"):
        made.estimate(bernoulli_toy(), ones(3))
    with pytest.raises(PairError, match="or use rebar"):
        AsPyro(RELAX(learn=False)).loss_and_grads(bernoulli_model, bernoulli_toy().guide, torch.ones(6))

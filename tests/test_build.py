"""Building a pair: seeded, sized from the data, with parameters of its own."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints

from ppvae import registry
from ppvae.build import build
from ppvae.errors import PairError, UsageError
from ppvae.estimators import ELBO, IWAE
from ppvae.local_params import key_of, name_of
from ppvae.pair import Pair
from ppvae.training import fit
from tests.toys import MLP, MLP_VAE, Encoder, bits, dataset, gaussian_model, loss_and_gradients, made, ones


def state(built):
    return {name: value.clone() for name, value in built.state_dict().items()}


def test_a_seed_decides_and_the_callers_state_stays():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = build(MLP_VAE, seed=1), build(MLP_VAE, seed=1), build(MLP_VAE, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(v, state(same)[k]) for k, v in state(one).items())
    assert any(not torch.equal(v, state(other)[k]) for k, v in state(one).items())
    assert not {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for p in same.parameters()}


def test_sizes_come_from_the_caller_the_pair_and_the_data():
    assert build(registry.find("ppca_full")).model.weight.shape == (10, 3)
    data = dataset({"x": torch.zeros(20, 2, 3)})
    built = build(registry.find("ppca_full"), data)
    assert built.model.weight.shape == (6, 3)
    assert built.num_data == 20
    assert build(registry.find("ppca_full"), data, latent=2).model.weight.shape == (6, 2)
    assert build(registry.find("ppca_full"), data, x_shape=(4,)).model.weight.shape == (4, 3)


def test_sizes_that_do_not_exist_or_are_missing():
    with pytest.raises(UsageError, match="no size 'latents', did you mean 'latent'"):
        build(MLP_VAE, latents=3)

    class Wants(nn.Module):
        def __init__(self, hidden):
            super().__init__()

    with pytest.raises(PairError, match="model's constructor needs 'hidden'"):
        build(Pair(model=Wants, guide=Encoder))
    with pytest.raises(PairError, match=r"Pair\(model=\) is an instance"):
        build(Pair(model=MLP(), guide=Encoder))
    with pytest.raises(PairError, match=r"Pair\(guide=\) is a int"):
        build(Pair(model=MLP, guide=3))  # type: ignore[arg-type]
    with pytest.raises(PairError, match="two methods, `model` and `guide`"):
        build(Pair(model=MLP))


def test_fields_are_picked_and_missing_ones_named():
    built, batch = build(MLP_VAE), bits(3)
    assert set(built.inputs({**batch, "y": torch.zeros(3)})) == {"x"}
    with pytest.raises(PairError, match=r"observed field 'x' is missing from the data, which have \['y'\]"):
        built.inputs({"y": torch.zeros(3)})


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal, AutoDelta])
def test_an_autoguide_gets_what_the_model_takes(auto):
    """Labels that the model does not know stay away from a guide that takes anything."""

    def model(x=None, *, n=None):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            return pyro.sample("x", dist.Normal(mu.unsqueeze(-1), 1.0).to_event(1), obs=x)

    built = build(Pair(model=model, guide=auto, data=None))
    batch = {"x": torch.full((4, 1), 2.0), "y": torch.zeros(4, dtype=torch.long)}
    assert set(built.inputs(batch)) == {"x"}
    built.score(batch)
    _, found = loss_and_gradients(ELBO(), built, batch)
    assert all(g.abs().sum() > 0 for g in found.values())
    trained = fit(built.pair, batch, steps=3, batch=2, check=False, progress=False)
    assert trained.step == 3


# Bare parameters.


def test_bare_params_live_in_the_pair_and_not_in_pyros_store():
    def guide(x, *, n=None):
        loc = pyro.param("loc", lambda: torch.tensor(0.5))
        scale = pyro.param("q.scale", torch.tensor(0.8), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, scale))

    pair = Pair(model=gaussian_model, guide=guide, data=None)
    one, two = build(pair), build(pair)
    _, found = loss_and_gradients(ELBO(), one, ones(4))
    loss_and_gradients(ELBO(), two, ones(4))
    assert dict(pyro.get_param_store()) == {}
    assert set(dict(one.named_parameters())) == {"params.@loc", "params.@q/scale"}
    # The first call makes the parameters, so the gradient of that very call is there.
    assert all(p.requires_grad for p in one.parameters())
    assert set(found) == set(dict(one.named_parameters()))
    assert set(one.groups()) == {"guide"}
    with one.local():
        torch.manual_seed(0)
        assert one.score(ones(4)).sites["z"].q.scale[0].item() == pytest.approx(0.8)
    with torch.no_grad():
        one.params["@loc"].fill_(9.0)
    assert two.params["@loc"] == 0.5


@pytest.mark.parametrize("name", ["values", "keys", "training", "a.b", "@a"])
def test_a_bare_param_may_have_any_name(name):
    """Also that of a method of the ParameterDict that keeps it."""

    def guide(x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(pyro.param(name, torch.tensor(0.5)), 1.0))

    built = build(Pair(model=gaussian_model, guide=guide, data=None))
    for _ in range(2):
        _, found = loss_and_gradients(ELBO(), built, ones(4))
    assert len(found) == 1
    assert all(g.abs() > 0 for g in found.values())
    assert {name_of(key) for key in built.params} == {name}
    twin = build(Pair(model=gaussian_model, guide=guide, data=None))
    twin.score(ones(4))
    with torch.no_grad():
        twin.params[key_of(name)].fill_(2.0)
    built.load_state_dict(twin.state_dict())
    assert float(built.params[key_of(name)].detach()) == 2.0


def test_a_bare_param_without_a_start_is_an_error():
    def guide(x, *, n=None):
        pyro.param("loc")

    with pytest.raises(PairError, match=r"pyro.param\('loc'\) has no initial value"):
        build(Pair(model=gaussian_model, guide=guide, data=None)).score(ones(2))


class Tutorial(nn.Module):
    """Model and guide as two methods of one class, with pyro.module and pyro.param: Pyro's own VAE lesson."""

    def __init__(self, size: int = 6):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(size, 4), nn.Linear(2, size)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        widen = pyro.param("widen", torch.tensor(1.5), constraint=constraints.positive)
        with pyro.plate("data", x.shape[0]):
            loc, raw = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, widen * raw.exp()).to_event(1))


@pytest.mark.parametrize("estimator", [ELBO(), ELBO(3), IWAE(3)])
def test_the_tutorials_class_runs_as_it_is(estimator):
    built, batch = build(Pair(model=Tutorial, data=None)), bits(5)
    built.score(batch)
    before = state(built)
    _, found = loss_and_gradients(estimator, built, batch)
    # pyro.module names the parameters that are there: no copies, which would never train.
    owned = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
    assert set(dict(built.named_parameters())) == {*(f"module.{n}" for n in owned), "params.@widen"}
    assert all(g.abs().sum() > 0 for g in found.values())
    assert set(before) == set(built.state_dict())
    assert dict(pyro.get_param_store()) == {}
    moved = sum(p.numel() for group in built.groups().values() for p in group.values())
    assert moved == sum(p.numel() for p in built.parameters())


def test_a_net_beside_a_function_is_adopted_by_pyro_module():
    net = nn.Linear(1, 2)

    def guide(x, *, n=None):
        pyro.module("net", net)
        with pyro.plate("data", len(x), dim=-1):
            loc, raw = net(x.unsqueeze(-1)).unbind(-1)
            pyro.sample("z", dist.Normal(loc, raw.exp()))

    built = build(Pair(model=gaussian_model, guide=guide, data=None))
    loss_and_gradients(ELBO(), built, ones(3))
    assert {id(p) for p in built.parameters()} == {id(p) for p in net.parameters()}
    loss, found = loss_and_gradients(ELBO(), built, ones(3))
    assert all(g.abs().sum() > 0 for g in found.values())
    assert set(built.groups()) == {"guide"}
    assert torch.isfinite(loss)


def test_model_and_guide_may_name_their_nets_alike():
    """In Pyro's one store a model's `net` and a guide's `net` would be one entry, and one of them never
    train."""

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 3)

        def forward(self, x=None):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self, model):
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    built = build(Pair(model=Model, guide=Guide, data=None))
    _, found = loss_and_gradients(ELBO(), built, {"x": torch.randn(4, 3)})
    assert set(found) == {"model.net.weight", "model.net.bias", "guide.net.weight", "guide.net.bias"}
    assert all(g.abs().sum() > 0 for g in found.values())


# Groups, copies, particles.


def test_groups_hold_each_parameter_once():
    for name in registry.names():
        built, batch = made(name)
        with torch.no_grad():
            built.score(batch)
        found = [id(p) for group in built.groups().values() for p in group.values()]
        assert len(found) == len(set(found))
        assert set(found) == {id(p) for p in built.parameters() if p.requires_grad}
    with pytest.raises(PairError, match=r"'model\.nets', where no trainable parameter lies"):
        build(Pair(model=MLP, guide=Encoder, groups={"g": ("model.nets",)})).groups()


def test_a_copy_is_independent():
    built, batch = build(MLP_VAE), bits(3)
    built.score(batch)
    twin = copy.deepcopy(built)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert all(p.abs().sum() > 0 for p in built.parameters() if p.dim() > 1)
    twin.score(batch)
    assert twin._local.owned.__self__ is twin


def test_batch_norm_takes_particles_one_at_a_time():
    class Normed(Encoder):
        def __init__(self, model):
            super().__init__(model)
            self.norm = nn.BatchNorm1d(model.size)
            self.calls = 0

        def forward(self, x, *, n=None):
            self.calls += 1
            super().forward(self.norm(x))

    built, batch = build(Pair(model=MLP, guide=Normed, data=None)), bits(5)
    for training, calls in ((True, 3), (False, 3)):
        built.train(training)
        built.guide.calls = 0
        assert built.score(batch, 3).log_weight.shape == (3, 5)
        assert built.guide.calls == calls

"""Both ways into Pyro: our estimators as `loss=` of a stock SVI, Pyro's losses by name as estimators of
ours."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false

import re

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro.contrib.gp.kernels import RBF
from pyro.nn import PyroModule
from torch import nn

from ppvae import estimators, registry
from ppvae.build import build
from ppvae.errors import PairError, UsageError
from ppvae.estimators import ELBO, IWAE, AnalyticKL, AsPyro, PyroLoss
from ppvae.estimators.pyro_bridge import IN_PYTHON, LOSSES, NEED_TWO
from ppvae.pair import Pair
from tests.test_proof_pairs import make
from tests.toys import (
    MLP,
    MLP_VAE,
    Encoder,
    assert_same,
    bits,
    dataset,
    loss_and_gradients,
    pyro_loss_and_gradients,
)

pytestmark = pytest.mark.usefixtures("float64")
OURS = [ELBO(), ELBO(particles=3), AnalyticKL(particles=2), IWAE(particles=1), IWAE(particles=4)]


def label(estimator):
    return f"{type(estimator).__name__}{estimator.particles}"


# Ours in stock SVI.


@pytest.mark.parametrize("estimator", OURS, ids=label)
def test_ours_trains_in_stock_svi(estimator):
    """Exact to 1e-9: the value is ours times the rows, and five steps of SVI move every parameter as plain
    Adam on our own gradients does."""
    built, batch = build(MLP_VAE), bits(7)
    other = build(MLP_VAE)
    before = {name: p.detach().clone() for name, p in built.named_parameters()}
    svi = pyro.infer.SVI(built.model, built.guide, pyro.optim.Adam({"lr": 0.01}), loss=AsPyro(estimator))
    torch.manual_seed(0)
    losses = [svi.step(**batch) for _ in range(5)]
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    torch.manual_seed(0)
    for value in losses:
        optimizer.zero_grad()
        loss = estimator(other)(batch)
        assert float(loss.detach()) * 7 == pytest.approx(value, rel=1e-9)
        (7 * loss).backward()
        optimizer.step()
    for (name, p), q in zip(built.named_parameters(), other.parameters(), strict=True):
        assert not torch.equal(p, before[name])
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
    torch.manual_seed(0)
    evaluated = svi.evaluate_loss(**batch)
    torch.manual_seed(0)
    assert float(estimator(other)(batch).detach()) * 7 == pytest.approx(evaluated, rel=1e-9)


@pytest.mark.parametrize("place", ["mixture:PAIR", "mixture:IN_GUIDE", "sequence:PAIR", "undirected:EXACT"])
def test_plates_and_enumeration_are_said(place):
    """Exact to 1e-9: AsPyro takes what the pair declares."""
    _, built, batch = make(place)
    rows = len(batch["x"]) if batch else 1
    loss = AsPyro(ELBO(particles=2), plates=built.pair.plates, enumerated=built.enumerated)
    torch.manual_seed(0)
    value = loss.loss(built.run_model, built.run_guide, **batch)
    mine, _ = loss_and_gradients(ELBO(particles=2), built, batch)
    assert value == pytest.approx(float(mine) * rows, rel=1e-9)


def test_a_subsampled_plate_scales_by_all_data():
    """Exact to 1e-9: under plate("data", N, subsample_size) with a global latent, SVI's loss is
    Trace_ELBO's."""
    data = torch.randn(30)

    def model():
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", 30, subsample_size=6, dim=-1) as rows:
            pyro.sample("x", dist.Normal(w, 1.0), obs=data[rows])

    def guide():
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.zeros(())), 0.5))

    torch.manual_seed(0)
    ours = AsPyro(ELBO()).loss(model, guide)
    torch.manual_seed(0)
    assert ours == pytest.approx(pyro.infer.Trace_ELBO(max_plate_nesting=1).loss(model, guide), rel=1e-9)


def test_iwae_refuses_globals_and_scales_in_svi_too():
    _, built, batch = make("regression:PAIR")
    svi = pyro.infer.SVI(built.model, built.guide, pyro.optim.Adam({}), loss=AsPyro(IWAE(particles=3)))
    with pytest.raises(PairError, match="global latents"):
        svi.step(**batch)
    scaled = pyro.poutine.scale(MLP(), scale=0.5)
    with pytest.raises(PairError, match="cannot take the scale"):
        AsPyro(IWAE(particles=3)).loss(scaled, Encoder(MLP()), **bits(3))


def test_one_loss_only_and_penalties():
    """A penalty of a further group has no optimizer in SVI and is refused; one without a group is added."""
    _, built, batch = make("critic:PAIR")
    with pytest.raises(PairError, match="SVI has one loss"):
        AsPyro(ELBO()).loss(built.model, built.guide, **batch)


# Modules as they are.


@pytest.mark.parametrize("estimator", OURS, ids=label)
def test_an_estimator_takes_plain_instances(estimator):
    """Exact to 1e-9: estimator(model, guide)(x) is the loss per datum, with gradients for both."""
    built, batch = build(MLP_VAE), bits(7)
    wanted, found = loss_and_gradients(estimator, built, batch)
    built.zero_grad(set_to_none=True)
    for call in (lambda loss: loss(batch["x"]), lambda loss: loss(x=batch["x"]), lambda loss: loss(batch)):
        torch.manual_seed(0)
        loss = call(estimator(built.model, built.guide))
        loss.backward()
        torch.testing.assert_close(loss.detach(), wanted, rtol=1e-9, atol=1e-9)
        assert_same({n: p.grad for n, p in built.named_parameters()}, found)
        built.zero_grad(set_to_none=True)


def test_instances_made_outside_of_the_library():
    """PyroModules of a user's own, made without `build`, with bare PyroParams among them."""
    model = MLP()
    loss = ELBO()(model, Encoder(model))(bits(4)["x"])
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    module = make("regression:PAIR")[0]
    model = module.Regression()
    guide = module.MeanField(model)
    batch = module.data()
    elbo = ELBO()(model, guide, observed=("y",), conditions=("x",))
    elbo(batch["x"], y=batch["y"]).backward()
    assert {n for n, p in guide.named_parameters() if p.grad is not None} == {
        "loc_unconstrained",
        "scale_unconstrained",
    }


# Pyro's losses, by name.

OPTIONS = {"Trace_MMD": {"kernel": RBF(input_dim=3)}}


def stock(name: str, particles: int, plates: int = 1):
    """The loss as a user of Pyro makes it."""
    options = {"num_particles": particles, "max_plate_nesting": plates, **OPTIONS.get(name, {})}
    if name == "EnergyDistance":  # counts its own plate of particles among them
        return pyro.infer.EnergyDistance(num_particles=particles, max_plate_nesting=plates + 1)
    return getattr(pyro.infer, name)(vectorize_particles=particles > 1, **options)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("name", [*LOSSES, *IN_PYTHON])
@pytest.mark.filterwarnings("ignore:.*no sample sites configured for enumeration")
def test_pyros_losses_by_name(name, particles):
    """Exact to 1e-9: value and gradient are Pyro's own under the same seed, divided by the rows."""
    built = build(registry.find("ppca_mean_field"), seed=1)
    batch = {"x": torch.randn(6, 10)}
    if particles == 1 and name in NEED_TWO:
        with pytest.raises(UsageError, match=f"{name} needs two particles or more: write particles=2"):
            PyroLoss(name)
        return
    estimator = PyroLoss(name, particles=particles, **OPTIONS.get(name, {}))
    loss, found = loss_and_gradients(estimator, built, batch)
    theirs = stock(name, particles)
    if not hasattr(theirs, "loss_and_grads"):
        function = theirs
        theirs = type(
            "Called", (), {"loss_and_grads": staticmethod(lambda m, g, **b: _backward(function(m, g, **b)))}
        )()
    value, wanted = pyro_loss_and_gradients(theirs, built, batch)
    value = value[0] if isinstance(value, tuple) else value
    assert float(loss) == pytest.approx(float(value) / 6, rel=1e-9)
    assert_same(found, wanted, 6)
    assert any(g.abs().sum() > 0 for g in found.values())
    objective = estimator.estimate(built, batch)
    assert (objective.bound is None) == (name in ("TraceTailAdaptive_ELBO", "Trace_MMD", "EnergyDistance"))


def _backward(loss):
    loss.backward()
    return loss.detach()


def test_what_a_loss_of_pyros_lacks_is_said():
    with pytest.raises(UsageError, match="did you mean 'Trace_ELBO'"):
        estimators.find("pyro:Trace_EBLO")
    with pytest.raises(UsageError, match="names no loss"):
        estimators.find("pyro")
    for text, line in {
        "pyro:Trace_MMD,k=3": "needs a kernel: make it in Python, PyroLoss('Trace_MMD', kernel=...)",
        "pyro:Trace_MMD,k=3,kernel=RBF": "needs a kernel: make it in Python",
        "pyro:EnergyDistance": "EnergyDistance needs two particles or more: write particles=2",
        "pyro:RenyiELBO,alfa=1": "has no option 'alfa', did you mean 'alpha'? It has: particles, alpha",
        "pyro:RenyiELBO,num_particles=2": "has no option 'num_particles', did you mean 'particles'?",
        "pyro:RenyiELBO,alpha=x": "alpha=x is no number, as in alpha=0",
        "pyro:RenyiELBO,alpha=1,particles=2": "RenyiELBO of alpha=1 is the ELBO: use pyro:Trace_ELBO",
        "pyro:ReweightedWakeSleep,k=2,model_has_params=2": "model_has_params=2 is neither true nor false",
    }.items():
        with pytest.raises(UsageError, match=re.escape(line)):
            estimators.find(text)
    with pytest.raises(UsageError, match="Pyro has no loss") as refused:
        estimators.find("pyro:Trace")
    assert "Trace_MMD" not in str(refused.value)  # which no text can name
    _, critic, batch = make("critic:PAIR")
    loss = PyroLoss("Trace_ELBO")
    for _ in range(2):  # each time, not only the first
        with pytest.raises(PairError, match="pass penalties by"):
            loss(critic)(batch)


def test_pyros_loss_leaves_gradients_and_random_numbers_alone():
    """The gradient that was there stays; max_plate_nesting is said, so that the first call draws as the
    second does."""
    built, batch = build(MLP_VAE), bits(4)
    for p in built.parameters():
        p.grad = torch.ones_like(p)
    for name in ("Trace_ELBO", "TraceEnum_ELBO", "RenyiELBO"):
        estimator = PyroLoss(name, particles=2)
        values = []
        for _ in range(2):
            torch.manual_seed(0)
            with pytest.warns(UserWarning, match="enumeration") if "Enum" in name else _silent():
                values.append(estimator.estimate(built, batch).losses["all"])
            state = torch.get_rng_state()
        assert torch.equal(values[0], values[1])
        torch.manual_seed(0)
        with torch.no_grad():
            built.score(batch, 2)
        assert torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(p.grad, torch.ones_like(p)) for p in built.parameters() if p.grad is not None)


def _silent():
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.parametrize("particles", [1, 2])
def test_pyros_loss_on_mini_batches_beside_global_latents(particles):
    """Exact to 1e-9: N / B on the data plate makes Trace_ELBO's gradient ours; one estimator serves two
    pairs."""
    loss = PyroLoss("Trace_ELBO", particles=particles)
    _, built, batch = make("regression:PAIR")
    part = {name: value[:6] for name, value in batch.items()}
    theirs, wanted = loss_and_gradients(loss, built, part)
    mine, found = loss_and_gradients(ELBO(particles=particles), built, part)
    torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)
    assert_same(found, wanted)
    local, data = build(MLP_VAE), bits(4)
    local.num_data = 100
    theirs, wanted = loss_and_gradients(loss, local, data)
    mine, found = loss_and_gradients(ELBO(particles=particles), local, data)
    torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)
    assert_same(found, wanted)


def test_enumeration_through_pyros_loss():
    """Exact to 1e-9: TraceEnum_ELBO by name sums out what the pair declares."""
    for place in ("mixture:PAIR", "mixture:IN_GUIDE"):
        _, built, batch = make(place)
        theirs, wanted = loss_and_gradients(PyroLoss("TraceEnum_ELBO", particles=2), built, batch)
        mine, found = loss_and_gradients(ELBO(particles=2), built, batch)
        torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)
        assert_same(found, wanted)


# A model that subsamples its data by itself; particles beside a BatchNorm.


class Subsampled(PyroModule):
    """mu for all, z for each, with a data plate that says how many there are."""

    def __init__(self, num_data):
        super().__init__()
        self.num_data, self.slope = num_data, nn.Parameter(torch.tensor(0.7))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else len(x)
        mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", self.num_data, subsample_size=rows, dim=-1):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            return pyro.sample("x", dist.Normal(self.slope * z, 1.0), obs=x)


class SubsampledGuide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.num_data = model.num_data
        self.loc, self.log_scale = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, x, *, n=None):
        pyro.sample("mu", dist.Normal(self.loc, self.log_scale.exp()))
        with pyro.plate("data", self.num_data, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc * x, 0.5))


@pytest.mark.parametrize("particles", [1, 3])
def test_a_model_that_subsamples_its_own_data_is_not_scaled_twice(particles):
    """Exact to 1e-9: value and gradient per datum are ours; also where a full batch came first, whose plate
    shows no subsample."""
    data = dataset({"x": torch.randn(20)})
    built = build(Pair(model=Subsampled, guide=SubsampledGuide, data=None), data)
    x = data.train.fields["x"]
    for order in ((5, 20), (20, 5)):
        loss = PyroLoss("Trace_ELBO", particles=particles)
        for rows in order:
            batch = {"x": x[:rows]}
            theirs, wanted = loss_and_gradients(loss, built, batch)
            mine, found = loss_and_gradients(ELBO(particles=particles), built, batch)
            torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)
            assert_same(found, wanted)
            assert all(g.abs().sum() > 0 for g in found.values())


class NormedMLP(MLP):
    """Normalizes over the latents, where a leading dim of particles would be taken for data."""

    def __init__(self):
        super().__init__()
        self.norm, self.seen = nn.BatchNorm1d(2), []

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            self.seen.append(tuple(z.shape))
            logits = self.decoder(self.norm(z))
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def as_model(self, x):
        return self(x)


@pytest.mark.parametrize("method", [False, True])
def test_particles_beside_a_batch_norm_in_stock_svi(method):
    """Exact to 1e-9: one after another, as Pyro's own loss without vectorize_particles; also where SVI is
    given a method of the module."""
    model = NormedMLP()
    guide, batch = Encoder(model), bits(5)
    run = model.as_model if method else model
    torch.manual_seed(0)
    ours = AsPyro(ELBO(particles=3)).loss(run, guide, batch["x"])
    assert model.seen == [(5, 2)] * 3
    torch.manual_seed(0)
    theirs = pyro.infer.Trace_ELBO(num_particles=3, max_plate_nesting=1).loss(run, guide, batch["x"])
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_particles_beside_a_batch_norm_in_pyros_loss():
    """Exact to 1e-9: one after another, as in ours."""
    built, batch = build(Pair(model=NormedMLP, guide=Encoder, data=None)), bits(5)
    loss = PyroLoss("Trace_ELBO", particles=3)
    loss(built)(batch)  # looks at the pair first
    built.model.seen.clear()
    theirs, wanted = loss_and_gradients(loss, built, batch)
    assert built.model.seen == [(5, 2)] * 3
    mine, found = loss_and_gradients(ELBO(particles=3), built, batch)
    torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)
    assert_same(found, wanted)

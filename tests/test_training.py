"""The loop: what `fit` promises about options, seeds, validation, resuming, and the literal SVI beside it."""

import dataclasses
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae
from ppvae import TrainConfig, checkpoint, registry
from ppvae.data import Dataset, Split
from ppvae.engine import EagerStep
from ppvae.errors import DataError, PairError, RunError, UsageError
from ppvae.estimators import ELBO, IWAE, PyroLoss, spelled
from ppvae.evaluation import mean_terms
from ppvae.pair import Pair, penalty
from ppvae.runs import Run
from ppvae.training import fit
from tests.test_terms import SCHOOLS, SchoolsGuide, schools
from tests.toys import MLP_VAE, Encoder, bits

PROOFS = Path(__file__).parent / "proof_pairs"
QUICK: dict[str, Any] = {"check": False, "progress": False}


def numbers(rows: int = 60, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def three_way(train: int = 60, seed: int = 0) -> Dataset:
    """Data for ppca with a validation and a test split, float64."""
    x = numbers(train + 24, seed)
    parts = (x[:train], x[train : train + 12], x[train + 12 :])
    train_, valid, test = (Split({"x": part}) for part in parts)
    return Dataset(name="three_way", train=train_, valid=valid, test=test)


def state(trained) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.built.state_dict().items()}


def assert_equal(found, wanted):
    """Bit for bit."""
    assert found.keys() == wanted.keys()
    for name in found:
        assert torch.equal(found[name], wanted[name]), name


def differ(found, wanted) -> bool:
    return any(not torch.equal(found[name], wanted[name]) for name in found)


def without_seconds(history):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


def train(history):
    return [entry for entry in history if "loss" in entry]


def proof(place: str):
    """(pair, data) of one of the proof pairs, in the current default dtype."""
    name, attribute = place.split(":")
    pair = registry.find(f"{PROOFS / name}.py:{attribute}")
    data = sys.modules[pair.model.__module__].data()  # type: ignore[union-attr]
    return pair, (Dataset(name=name, train=Split(data), test=Split(data)) if data else None)


# ---- what comes back


def test_fit_returns_the_trained_pair_its_data_and_its_history():
    trained = fit("ppca", three_way(), steps=4, batch=20, log_every=2, **QUICK)
    assert isinstance(trained, ppvae.Trained)
    assert trained.pair.name == "ppca"
    assert trained.step == 4
    assert trained.dataset is not None
    assert trained.dataset.name == "three_way"
    assert [entry["step"] for entry in train(trained.history)] == [2, 4]
    assert {"loss", "elbo", "rate", "distortion", "seconds", "epoch"} <= train(trained.history)[0].keys()
    assert not any(module.training for module in trained.built.modules())


def test_training_finds_a_better_model():
    """Within 0.5 nats of the truth's own bound on ppca_toy, seed 0; it starts more than 5 above it."""
    trained = fit("ppca", "ppca_toy", epochs=25, lr=0.02, log_every=7, **QUICK)
    assert trained.dataset is not None
    assert trained.dataset.truth is not None
    truth, x = trained.dataset.truth, trained.dataset.train.fields["x"]
    covariance = truth["weight"] @ truth["weight"].T + truth["variance"] * torch.eye(10, dtype=x.dtype)
    wanted = -float(dist.MultivariateNormal(truth["loc"], covariance).log_prob(x).mean())
    losses = [entry["loss"] for entry in train(trained.history)]
    assert losses[0] > wanted + 5.0
    assert losses[-1] == pytest.approx(wanted, abs=0.5)


def test_a_config_and_options_which_win():
    config = TrainConfig(epochs=1, batch=30, check=False, progress=False)
    assert fit("ppca", three_way(), config=config).step == 2
    trained = fit("ppca", three_way(), config=config, batch=20)
    assert trained.step == 3
    assert (trained.config.epochs, trained.config.batch) == (1, 20)


def test_a_misspelt_option_is_told_the_nearest():
    with pytest.raises(UsageError, match=r"no option 'epoch', did you mean 'epochs'"):
        fit("ppca", epoch=3)


@pytest.mark.parametrize(
    ("estimator", "text"),
    [
        (ELBO(), "elbo"),
        (IWAE(particles=7), "iwae:particles=7"),
        (ELBO(beta=4.0, particles=2), "elbo:particles=2,beta=4.0"),
        (PyroLoss("RenyiELBO", particles=2, alpha=0.5), "pyro:RenyiELBO,particles=2,alpha=0.5"),
        ("iwae:k=3", "iwae:particles=3"),
    ],
)
def test_the_estimator_that_was_used_is_the_one_recorded(estimator, text):
    trained = fit("ppca_mean_field", three_way(), estimator, steps=1, **QUICK)
    assert trained.config.estimator == text
    if not isinstance(estimator, str):
        assert spelled(estimator) == text


def test_an_estimator_of_the_users_own_goes_by_its_class():
    class Mine(ELBO):
        pass

    assert fit("ppca", three_way(), Mine(), steps=1, **QUICK).config.estimator == "own:Mine"


def test_a_misspelt_estimator():
    with pytest.raises(UsageError, match="no estimator 'elboo', did you mean 'elbo'"):
        fit("ppca", three_way(), "elboo")


@pytest.mark.parametrize(
    "what",
    [
        "tensor",
        "array",
        "npz",
        "frame",
        "dict",
        "path",
    ],
)
def test_any_data(what, tmp_path):
    x = numbers(40).numpy()
    np.savez(tmp_path / "own.npz", x=x)
    data = {
        "tensor": lambda: torch.tensor(x),
        "array": lambda: x,
        "npz": lambda: str(tmp_path / "own.npz"),
        "path": lambda: tmp_path / "own.npz",
        "frame": lambda: pandas.DataFrame(x),
        "dict": lambda: {"x": x},
    }[what]()
    trained = fit("ppca", data, steps=3, **QUICK)
    assert trained.dataset is not None
    assert trained.dataset.num_data == 32  # a tenth each to valid and test
    parameters = dict(trained.built.named_parameters())
    assert {p.dtype for p in parameters.values()} == {torch.float64}
    assert parameters["model.weight"].shape == (6, 3)


def test_float32_data_make_a_float32_model():
    trained = fit("ppca", numbers().float(), steps=1, **QUICK)
    assert {p.dtype for p in trained.built.parameters()} == {torch.float32}


# ---- steps, epochs, batches


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"epochs": 2, "batch": 20}, 6),
        ({"epochs": 2, "batch": 25}, 4),  # the last, shorter batch is left out
        ({"epochs": 2, "batch": 1000}, 2),  # larger than the data
        ({"epochs": 1, "batch": 20, "steps": 8}, 8),  # steps over epochs, both ways
        ({"epochs": 9, "batch": 20, "steps": 2}, 2),
    ],
)
def test_how_many_steps(options, steps):
    assert fit("ppca", three_way(), **options, **QUICK).step == steps


def recorded(monkeypatch):
    """The batches that the step sees."""
    seen = []
    call = EagerStep.__call__

    def spy(self, given, *args):
        seen.append({name: value.clone() for name, value in self.read(given).items()})
        return call(self, given, *args)

    monkeypatch.setattr(EagerStep, "__call__", spy)
    return seen


def test_every_datum_once_an_epoch_and_short_batches_dropped(monkeypatch):
    seen = recorded(monkeypatch)
    data = three_way(train=50)
    fit("ppca", data, epochs=2, batch=20, **QUICK)
    assert [len(batch["x"]) for batch in seen] == [20] * 4
    rows = torch.cat([seen[0]["x"], seen[1]["x"]])
    assert len(rows.unique(dim=0)) == 40
    known = {tuple(row) for row in data.train.fields["x"].tolist()}
    assert {tuple(row) for row in rows.tolist()} <= known


def test_the_order_is_a_function_of_seed_and_epoch(monkeypatch):
    """Whatever the estimator draws, the model has for parameters, or the step at which one begins."""
    orders = []
    for pair, estimator, seed in [
        ("ppca", "elbo", 0),
        ("ppca_mean_field", "iwae:particles=3", 0),
        ("ppca", "elbo", 1),
    ]:
        with monkeypatch.context() as patch:
            seen = recorded(patch)
            fit(pair, three_way(), estimator, epochs=2, batch=20, seed=seed, **QUICK)
            orders.append(torch.stack([batch["x"] for batch in seen]))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0][:3], orders[0][3:])  # another epoch, another order


# ---- seeds and random states


def test_two_fits_are_equal_bit_for_bit_and_another_seed_differs():
    one, two, other = (
        fit("ppca_mean_field", three_way(), epochs=3, batch=20, seed=seed, log_every=1, **QUICK)
        for seed in (0, 0, 1)
    )
    assert_equal(state(one), state(two))
    assert without_seconds(one.history) == without_seconds(two.history)
    assert differ(state(one), state(other))


def test_a_fit_neither_reads_nor_moves_the_callers_random_state():
    """Python's generator is left out: beartype draws from it in every checked call."""
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    one = fit("ppca_mean_field", three_way(), steps=2, **QUICK)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]
    torch.manual_seed(6)
    assert_equal(state(fit("ppca_mean_field", three_way(), steps=2, **QUICK)), state(one))


def test_a_model_that_draws_from_numpy_is_seeded_too():
    pair = Pair(model=Jittered, guide=Encoder, data=None)
    one, two = (fit(pair, bits(20), steps=3, **QUICK) for _ in range(2))
    assert_equal(state(one), state(two))


class Jittered(MLP_VAE.model):  # type: ignore[misc, name-defined]
    def forward(self, x=None, *, n=None):
        penalty("jitter", (self.decoder[0].weight * float(np.random.rand() + random.random())).sum())
        return super().forward(x, n=n)


# ---- validation


def test_validation_does_not_change_what_is_trained():
    """Bit-equal with and without it, dropout and BatchNorm included."""
    data = three_way()
    bare = dataclasses.replace(data, valid=None)
    pair = Pair(model=registry.find("ppca").model, guide=Normed, data=None)
    with_, without = (fit(pair, d, epochs=4, batch=20, **QUICK) for d in (data, bare))
    assert any("valid_elbo" in entry for entry in with_.history)
    assert not any("valid_elbo" in entry for entry in without.history)
    assert_equal(state(with_), state(without))


class Normed(nn.Module):
    """A guide with dropout and BatchNorm, so that a forgotten training flag shows."""

    def __init__(self, model):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, model.latent)
        )

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


def test_validation_elbo_is_the_evaluators_on_a_fixed_draw():
    from ppvae.loop import VALIDATION_SEED

    trained = fit("ppca_mean_field", three_way(), epochs=1, batch=20, **QUICK)
    assert trained.dataset is not None
    wanted = mean_terms(trained.built, trained.dataset.valid, seed=VALIDATION_SEED)["elbo"]
    assert trained.history[-1]["valid_elbo"] == wanted


def test_validate_every_and_at_the_end():
    trained = fit("ppca", three_way(), epochs=5, batch=30, validate_every=2, **QUICK)
    assert [e["epoch"] for e in trained.history if "valid_elbo" in e] == [1, 3, 4]


def test_patience_stops_and_keeps_the_best_parameters(monkeypatch):
    values = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    states = []

    def told(built, split, batch):
        states.append({name: value.clone() for name, value in built.state_dict().items()})
        return next(values)

    monkeypatch.setattr("ppvae.loop.validation_elbo", told)
    trained = fit("ppca", three_way(), epochs=50, batch=20, patience=2, **QUICK)
    assert len(states) == 4  # epochs 0 to 3, the best was epoch 1
    assert trained.step == 12
    assert_equal(state(trained), states[1])
    assert differ(states[1], states[3])


def test_patience_keeps_the_best_also_where_training_ends_first(monkeypatch):
    values, states = iter([1.0, 3.0, 2.0]), []

    def told(built, split, batch):
        states.append({name: value.clone() for name, value in built.state_dict().items()})
        return next(values)

    monkeypatch.setattr("ppvae.loop.validation_elbo", told)
    assert_equal(state(fit("ppca", three_way(), epochs=3, batch=20, patience=9, **QUICK)), states[1])


# ---- optimizers and schedules


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adamax", "rmsprop", "sgd"])
def test_every_optimizer_is_torchs(optimizer):
    """Two steps by hand with torch's own class from the same start: bit for bit, fused ones to 1e-12."""
    data = three_way()
    start = state(fit("ppca", data, steps=1, lr=1e-300, seed=0, weight_decay=0.0, **QUICK))
    trained = fit("ppca", data, steps=2, batch=60, lr=0.01, weight_decay=0.1, optimizer=optimizer, **QUICK)
    built = ppvae.build.build(registry.find("ppca"), data, seed=0)
    built.load_state_dict(start)
    classes = {"adam": "Adam", "adamw": "AdamW", "adamax": "Adamax", "rmsprop": "RMSprop", "sgd": "SGD"}
    options: dict[str, Any] = {"momentum": 0.9} if optimizer == "sgd" else {}
    made = getattr(torch.optim, classes[optimizer])(built.parameters(), lr=0.01, weight_decay=0.1, **options)
    for _ in range(2):
        made.zero_grad()
        (-built.model.log_evidence(data.train.fields["x"]).mean()).backward()
        made.step()
    for name, value in built.state_dict().items():
        torch.testing.assert_close(trained.built.state_dict()[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]),
    ],
)
def test_schedules(schedule, factors, monkeypatch):
    rates = []
    make = torch.optim.SGD.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return make(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    fit("ppca", three_way(), steps=4, batch=20, lr=0.1, schedule=schedule, optimizer="sgd", **QUICK)
    assert rates == pytest.approx([0.1 * factor for factor in factors], rel=1e-12)


def test_learning_rates_of_groups():
    data = three_way()
    start = state(fit("ppca_mean_field", data, steps=1, lr=1e-300, **QUICK))
    trained = fit("ppca_mean_field", data, steps=1, lr=0.01, lr_groups={"guide": 1e-300}, **QUICK)
    moved = {name for name, value in state(trained).items() if not torch.equal(value, start[name])}
    assert moved == {name for name in start if name.startswith("model.")}


def test_a_group_that_does_not_exist_is_named():
    with pytest.raises(UsageError, match=r"lr_groups names 'gide'.*model, guide"):
        fit("ppca_mean_field", three_way(), lr_groups={"gide": 1e-3}, **QUICK)


@pytest.mark.parametrize("clip_norm", [1e-3, 1e9])
def test_clip_norm_is_the_global_norm_of_each_group(clip_norm, monkeypatch):
    """Before every optimizer step the norm over all tensors of a group is min(clip_norm, what it was)."""
    norms: dict[float, list[float]] = {}

    def spy(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.setdefault(clip_norm, []).append(float(torch.cat([g.flatten() for g in grads]).norm()))
        assert len(grads) > 1

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    options: dict[str, Any] = {"steps": 1, "optimizer": "sgd", **QUICK}
    fit("ppca_mean_field", three_way(), clip_norm=clip_norm, **options)
    assert len(norms[clip_norm]) == 2  # model and guide
    if clip_norm < 1:
        assert norms[clip_norm] == pytest.approx([clip_norm] * 2, rel=1e-3)
    else:
        clipped = list(norms[clip_norm])
        fit("ppca_mean_field", three_way(), **options)
        assert norms[clip_norm][2:] == clipped
        assert min(clipped) > 1e-3


def test_warm_up_raises_beta_and_logs_the_loss_and_the_true_elbo():
    """loss = distortion + beta * rate, elbo = -(distortion + rate), exactly the same draws: to 1e-9."""
    trained = fit("ppca_mean_field", three_way(), steps=6, batch=20, kl_warmup=4, log_every=1, **QUICK)
    entries = train(trained.history)
    assert [entry["beta"] for entry in entries] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["distortion"] + entry["beta"] * entry["rate"], abs=1e-9)
        assert entry["elbo"] == pytest.approx(-entry["distortion"] - entry["rate"], abs=1e-9)


def test_warm_up_ends_at_the_estimators_own_beta():
    trained = fit("ppca_mean_field", three_way(), "elbo:beta=4", steps=3, kl_warmup=2, log_every=1, **QUICK)
    assert [entry["beta"] for entry in train(trained.history)] == [0.0, 2.0, 4.0]


def test_warm_up_of_an_estimator_without_beta_is_refused():
    with pytest.raises(UsageError, match=r"pyro:Trace_ELBO has no beta that kl_warmup .*: leave it out"):
        fit("ppca_mean_field", three_way(), "pyro:Trace_ELBO", kl_warmup=10, **QUICK)


# ---- the literal SVI


def test_engine_pyro_equals_ours_in_float64():
    """20 steps of Adam on ppca_toy: parameters agree to 1e-9, where they have moved by more than 1e-2."""
    options: dict[str, Any] = {"steps": 20, "lr": 0.01, "weight_decay": 0.01, "schedule": "linear", **QUICK}
    ours, theirs = (
        fit("ppca_mean_field", "ppca_toy", engine=engine, **options) for engine in ("eager", "pyro")
    )
    start = fit("ppca_mean_field", "ppca_toy", steps=1, lr=1e-300, **QUICK)
    for name, value in state(ours).items():
        torch.testing.assert_close(state(theirs)[name], value, rtol=1e-9, atol=1e-9)
        assert (value - state(start)[name]).abs().max() > 1e-2
    assert train(theirs.history)[-1]["loss"] == pytest.approx(train(ours.history)[-1]["loss"], abs=1e-4)


def test_engine_pyro_equals_ours_on_digits_in_float32():
    """20 steps at lr 1e-3: within 1e-4, a 200th of the way that a parameter can have gone. Adam divides by
    the gradient's size, so that where a gradient is rounding error, so is the direction of its step."""
    from ppvae.data import load

    digits = load("digits")
    small = Dataset(name="small", train=digits.train.subset(torch.arange(512)))
    options: dict[str, Any] = {"steps": 20, "sizes": {"latent": 4, "hidden": [32]}, **QUICK}
    ours, theirs = (state(fit("vae", small, engine=engine, **options)) for engine in ("eager", "pyro"))
    for name, value in ours.items():
        # Pixels that are never on have no gradient at all; the others agree.
        assert (theirs[name] - value).abs().max() < 1e-4, name


class Own(PyroModule):
    """A model whose data plate itself says N and takes the batch for a sample."""

    def __init__(self, num_data):
        super().__init__()
        self.num_data, self.slope = num_data, nn.Parameter(torch.tensor(0.7))

    def forward(self, x=None, *, n=None):
        rows = n if x is None else len(x)
        with pyro.plate("data", self.num_data, subsample_size=rows, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(6), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.slope * z, 1.0).to_event(1), obs=x)


class OwnGuide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.num_data, self.loc = model.num_data, nn.Parameter(torch.tensor(0.5))

    def forward(self, x, *, n=None):
        with pyro.plate("data", self.num_data, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc * x, 0.5).to_event(1))


def test_engine_pyro_equals_ours_where_the_model_subsamples():
    """Exact to 1e-9 in parameters and logged losses, 6 steps of 20 of 60 data: a loss over N is divided by N,
    as Adam's eps and decay are multiplied by it."""
    options: dict[str, Any] = {"steps": 6, "batch": 20, "log_every": 1, "lr": 0.01, "weight_decay": 0.01}
    pair = Pair(model=Own, guide=OwnGuide, data=None)
    ours, theirs = (
        fit(pair, {"x": numbers()}, engine=engine, **options, **QUICK) for engine in ("eager", "pyro")
    )
    for name, value in state(ours).items():
        torch.testing.assert_close(state(theirs)[name], value, rtol=1e-9, atol=1e-9)
    for mine, pyros in zip(train(ours.history), train(theirs.history), strict=True):
        assert pyros["loss"] == pytest.approx(mine["loss"], rel=1e-6)


def test_a_pair_without_data_and_with_a_plate_trains():
    """The eight schools' mean is 4.52 (prior sd 5, between schools 3); 800 steps at seed 0 come within
    .5 of the exact posterior mean."""
    trained = fit(
        Pair(model=schools, guide=SchoolsGuide, data=None, observed=()),
        steps=800,
        lr=0.05,
        schedule="linear",
        estimator="elbo:particles=10",
        progress=False,
    )
    y, error = SCHOOLS
    precision = 1 / (error**2 + 9)
    exact = float((precision * y).sum() / (precision.sum() + 1 / 25))
    assert float(trained.built.guide.mu.detach()) == pytest.approx(exact, abs=0.5)


def test_the_callers_threads_are_left_alone(monkeypatch):
    """Inside they are as asked for, also after an error."""
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(
        EagerStep,
        "__call__",
        lambda self, *a, _real=EagerStep.__call__: (seen.append(torch.get_num_threads()), _real(self, *a))[1],
    )
    try:
        fit("ppca", three_way(), steps=1, threads=1, **QUICK)
        assert (seen, torch.get_num_threads()) == ([1], 2)
        with pytest.raises(PairError):
            fit(Pair(model=MLP_VAE.model, guide=Misspelt, data=None), bits(20), threads=1, **QUICK)
        assert torch.get_num_threads() == 2
        fit("ppca", three_way(), steps=1, **QUICK)
        assert seen == [1, 2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 1.0}, "engine=pyro has no clip_norm: leave it out"),
        ({"precision": "bf16"}, "engine=pyro has no precision: leave it out"),
        ({"kl_warmup": 5}, "engine=pyro has no kl_warmup: leave it out"),
        ({"lr_groups": {"guide": 1e-3}}, "engine=pyro has no lr_groups"),
        ({"optimizer": "sgd"}, "use estimator=elbo, optimizer=adam, or engine=eager"),
        ({"estimator": "iwae"}, "use estimator=elbo, optimizer=adam, or engine=eager"),
        ({"estimator": "elbo:beta=2"}, "is SVI with Trace_ELBO"),
    ],
)
def test_engine_pyro_refuses_what_svi_does_not_have(options, message):
    with pytest.raises(UsageError, match=message):
        fit("ppca_mean_field", three_way(), engine="pyro", **options, **QUICK)


class Shared(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](6, 6)  # type: ignore[call-arg]

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(6), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)


class SharedGuide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.net = PyroModule[nn.Linear](6, 6)  # type: ignore[call-arg]

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


def test_engine_pyro_refuses_a_name_that_model_and_guide_share():
    """In Pyro's store they are one parameter; ours trains both."""
    pair = Pair(model=Shared, guide=SharedGuide, data=None)
    assert fit(pair, bits(20), steps=1, **QUICK).step == 1
    with pytest.raises(PairError, match=r"both own a parameter 'net.bias', .*: rename the attribute"):
        fit(pair, bits(20), engine="pyro", steps=1, **QUICK)


@pytest.mark.parametrize("place", ["regression:PAIR", "critic:PAIR", "mixture:PAIR"])
def test_engine_pyro_refuses_what_it_would_train_wrongly(place):
    pair, data = proof(place)
    with pytest.raises((PairError, UsageError), match=r"engine=pyro .*(use|or) engine=eager"):
        fit(pair, data, engine="pyro", steps=1, **QUICK)


def test_engine_pyro_refuses_a_penalty():
    with pytest.raises(PairError, match="leave out the penalty 'jitter': use engine=eager"):
        fit(Pair(model=Jittered, guide=Encoder, data=None), bits(20), engine="pyro", steps=1, **QUICK)


def test_engine_pyro_leaves_the_global_store_alone():
    fit("ppca_mean_field", three_way(), engine="pyro", steps=2, **QUICK)
    assert list(pyro.get_param_store().keys()) == []


# ---- the check, and what stops a training


def test_the_check_refuses_a_broken_pair_before_the_first_step(monkeypatch):
    seen = recorded(monkeypatch)
    with pytest.raises(PairError, match="'w'"):
        fit(Pair(model=MLP_VAE.model, guide=Misspelt, data=None), bits(20), steps=1, progress=False)
    assert seen == []


class Misspelt(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.encoder = nn.Linear(6, 2)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("w", dist.Normal(self.encoder(x), 1.0).to_event(1))


def test_the_check_leaves_the_training_as_it_would_have_been():
    with_, without = (
        fit("ppca_mean_field", three_way(), steps=2, check=check, progress=False) for check in (True, False)
    )
    assert_equal(state(with_), state(without))


def test_a_loss_that_is_not_finite_stops_with_the_steps_and_the_fix(tmp_path):
    x = three_way()
    with pytest.raises(
        RunError,
        match=r"the loss became nan in step 2: log q of site 'z' is nan for 20 of 20 .* smaller --lr",
    ):
        fit("ppca_mean_field", x, steps=40, batch=20, lr=1e200, log_every=10, **QUICK)
    # A checkpoint is never written over it.
    options: dict[str, Any] = {"epochs": 9, "checkpoint_every": 1, "log_every": 1000}
    with pytest.raises(RunError, match="the loss became"):
        fit("ppca_mean_field", x, batch=20, lr=1e200, save=True, out=tmp_path, **options, **QUICK)
    assert list(Run.open(tmp_path / "latest").checkpoints.glob("step-*")) == []


def test_a_pair_without_trainable_parameters():
    def model(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(6), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(6), 1.0).to_event(1))

    with pytest.raises(PairError, match="no trainable parameter"):
        fit(Pair(model=model, guide=guide, data=None), bits(20), **QUICK)


def test_a_device_that_is_not_here():
    for device in ("cuda:77", "tpu", "meta"):
        with pytest.raises(UsageError, match=r"use (auto|--device cpu)"):
            fit("ppca", three_way(), device=device)


# ---- any pair


PLACES = [
    "conditional_two_layer:PAIR",
    "sequence:PAIR",
    "mixture:PAIR",
    "mixture:IN_GUIDE",
    "regression:PAIR",
]
PLACES += ["critic:PAIR", "undirected:PAIR", "undirected:SUMMED", "undirected:EXACT", "undirected:QUADRATIC"]


UNCHECKED: list[str] = []
"""Its spins are drawn without a word in Pair(discrete=), which the check asks for."""


@pytest.mark.parametrize("place", PLACES)
def test_every_proof_pair_trains_and_is_evaluated(place):
    """Every parameter moves (the spins' score function may give exactly 0 in one step, hence 20)."""
    pair, data = proof(place)
    options: dict[str, Any] = {"lr": 0.01, "progress": False, "check": place not in UNCHECKED}
    start = state(fit(pair, data, steps=1, **{**options, "lr": 1e-300}))
    trained = fit(pair, data, steps=20, **options)
    assert {n for n, v in state(trained).items() if torch.equal(v, start[n])} == set()
    assert all(math.isfinite(entry["loss"]) for entry in train(trained.history))
    if data is None:
        with pytest.raises(UsageError, match="has no data"):
            trained.evaluate()
        return
    results = trained.evaluate(k=10, n=5)
    assert math.isfinite(results["elbo"])
    if place == "regression:PAIR":
        assert results["log_likelihood"] is None
        assert "global latents" in results["reasons"]["log_likelihood"]
    elif place == "mixture:IN_GUIDE":
        assert "'c', which the guide enumerates" in results["reasons"]["log_likelihood"]
    else:
        assert math.isfinite(results["log_likelihood"])


def test_an_undirected_pair_climbs_to_log_z():
    """The mean-field bound of the quadratic is tight at its optimum but for the correlation; 500 steps come
    within 0.1 nats of log Z at seed 0, from more than 0.3 below it."""
    pair, _ = proof("undirected:QUADRATIC")
    log_z = float(sys.modules[pair.model.__module__].log_z_quadratic())  # type: ignore[union-attr]
    trained = fit(pair, steps=500, lr=0.02, estimator="elbo:particles=20", **QUICK)
    losses = [entry["loss"] for entry in train(trained.history)]
    gap = 0.5 * math.log(2.0 * 1.0 / (2.0 * 1.0 - 0.36))
    assert losses[0] > -log_z + gap + 0.1
    assert losses[-1] == pytest.approx(-log_z + gap, abs=0.1)


def test_penalties_and_the_second_group_are_logged():
    pair, data = proof("critic:PAIR")
    entry = train(fit(pair, data, steps=3, log_every=1, **QUICK).history)[-1]
    assert {"penalty/l1", "penalty/recognized", "penalty/critic", "loss/all", "loss/critic"} <= entry.keys()
    assert entry["loss/critic"] == pytest.approx(entry["penalty/critic"], rel=1e-6)
    wanted = -entry["elbo"] + entry["penalty/l1"] + entry["penalty/recognized"]
    assert entry["loss/all"] == pytest.approx(wanted, rel=1e-5)


def test_a_missing_condition_is_named():
    pair, data = proof("conditional_two_layer:PAIR")
    assert data is not None
    with pytest.raises(PairError, match="condition 'y' is missing"):
        fit(pair, {"x": data.train.fields["x"]}, **QUICK)


def test_unknown_data_and_pairs_suggest_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        fit("ppca", "digts")
    with pytest.raises(UsageError, match="did you mean 'ppca'"):
        fit("ppcaa")
    with pytest.raises(DataError, match="does not exist"):
        fit("ppca", "nowhere/own.npz")


# ---- going on


OPTIONS: dict[str, Any] = {
    "batch": 20,
    "seed": 3,
    "log_every": 2,
    "checkpoint_every": 1,
    "kl_warmup": 5,
    **QUICK,
}


def runs_of(tmp_path, **options):
    return {**OPTIONS, "out": tmp_path, "save": True, **options}


def saved_tensors(run):
    """Those of the last checkpoint; Python's generator is left out, since beartype draws from it."""
    last = checkpoint.latest(run.checkpoints)
    assert last is not None
    return {k: v for k, v in checkpoint.load(last)[0].items() if not k.startswith("generator.python")}


@pytest.mark.parametrize(
    ("first", "then", "more"),
    [
        ({"epochs": 2}, {"epochs": 4}, {}),
        ({"steps": 5}, {"steps": 13}, {}),  # in the middle of an epoch, between two lines of metrics
        ({"steps": 5}, {"steps": 13}, {"validate_every": 2, "patience": 3, "optimizer": "sgd"}),
        (
            {"steps": 4},
            {"steps": 7},
            {"estimator": "iwae:particles=3", "optimizer": "adamax", "kl_warmup": 0},
        ),
    ],
)
def test_resumed_is_straight_bit_for_bit(first, then, more, tmp_path):
    """Parameters, the best of them, optimizers, generators and every line of metrics but the seconds."""
    data = three_way()
    straight = fit("ppca_mean_field", data, **runs_of(tmp_path / "a", **then, **more))
    begun = fit("ppca_mean_field", data, **runs_of(tmp_path / "b", **first, **more))
    torch.manual_seed(99)
    assert begun.run is not None
    resumed = fit("ppca_mean_field", data, resume=begun.run.path, **then)
    assert resumed.step == straight.step
    assert_equal(state(resumed), state(straight))
    assert without_seconds(resumed.history) == without_seconds(straight.history)
    assert straight.run is not None
    assert resumed.run is not None
    assert without_seconds(resumed.run.metrics()) == without_seconds(straight.run.metrics())
    assert_equal(*(saved_tensors(trained.run) for trained in (straight, resumed)))


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Ctrl-C in the third epoch of a cosine schedule; the loop goes back to the last checkpoint."""
    data = three_way()
    options: dict[str, Any] = {"epochs": 4, "schedule": "cosine", "lr": 0.01}
    straight = fit("ppca_mean_field", data, **runs_of(tmp_path / "a", **options))
    call, count = EagerStep.__call__, iter(range(8))

    def stopped(self, *args):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return call(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(EagerStep, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit("ppca_mean_field", data, **runs_of(tmp_path / "b", **options))
    resumed = fit("ppca_mean_field", data, resume=tmp_path / "b" / "latest")
    assert_equal(state(resumed), state(straight))
    assert without_seconds(resumed.history) == without_seconds(straight.history)


def test_without_options_a_resumed_run_has_its_own(tmp_path):
    begun = fit("ppca", three_way(), **runs_of(tmp_path, epochs=1, lr=0.05, kl_warmup=7))
    resumed = fit("ppca", three_way(), resume=begun.run, epochs=2)
    assert resumed.config == dataclasses.replace(begun.config, epochs=2)
    assert resumed.step == 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.5}, "has lr=0.01, not 0.5: leave the option out to go on"),
        ({"batch": 10}, "has batch=20, not 10"),
        ({"seed": 4}, "has seed=3, not 4"),
        ({"sizes": {"latent": 2}}, "has sizes="),
        ({"estimator": "iwae:k=3"}, "has estimator='elbo', not 'iwae:particles=3'"),
        ({"epochs": 1, "steps": 2}, "has done 3 steps, more than 2: give more --epochs or --steps"),
    ],
)
def test_what_cannot_change_on_the_way(changed, message, tmp_path):
    begun = fit("ppca", three_way(), **runs_of(tmp_path, epochs=1))
    with pytest.raises((RunError, UsageError), match=message):
        fit("ppca", three_way(), resume=begun.run, **{"epochs": 2, **changed})


def test_resume_with_other_data_another_pair_or_another_length_of_a_schedule(tmp_path):
    begun = fit("ppca", three_way(), **runs_of(tmp_path, epochs=1, schedule="linear"))
    with pytest.raises(RunError, match="trained on other data: give the same data"):
        fit("ppca", three_way(seed=1), resume=begun.run)
    with pytest.raises(RunError, match="trains the pair ppca, not ppca_full: give the same pair"):
        fit("ppca_full", three_way(), resume=begun.run)
    with pytest.raises(RunError, match="has schedule=linear over 3 steps, not 6: it is complete, start"):
        fit("ppca", three_way(), resume=begun.run, epochs=2)


def test_a_run_that_stopped_early_says_so(tmp_path, monkeypatch):
    values = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr("ppvae.loop.validation_elbo", lambda *_: next(values))
    begun = fit("ppca", three_way(), **runs_of(tmp_path, epochs=9, patience=1))
    assert begun.step == 6
    with pytest.raises(RunError, match="stopped early, after 1 epochs without a better validation bound"):
        fit("ppca", three_way(), resume=begun.run)
    kept = ppvae.load(tmp_path / "latest", data=three_way())
    assert_equal(state(kept), state(begun))


def test_a_run_without_a_checkpoint_cannot_be_resumed(tmp_path):
    begun = fit("ppca", three_way(), **runs_of(tmp_path, epochs=1))
    assert begun.run is not None
    for path in begun.run.checkpoints.glob("step-*"):
        path.rename(path.with_name("away-" + path.name))
    with pytest.raises(RunError, match="has no checkpoint that verifies: train again"):
        fit("ppca", three_way(), resume=begun.run)


def test_engine_pyro_cannot_resume(tmp_path):
    begun = fit("ppca_mean_field", three_way(), **runs_of(tmp_path, epochs=1, engine="pyro", kl_warmup=0))
    with pytest.raises(UsageError, match="engine=pyro cannot resume"):
        fit("ppca_mean_field", three_way(), resume=begun.run, epochs=2)


def test_the_lock_is_given_up_at_the_end_and_after_an_error(tmp_path):
    trained = fit("ppca", three_way(), **runs_of(tmp_path, steps=1))
    assert trained.run is not None
    assert trained.run._lock is None

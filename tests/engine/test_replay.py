"""The flat graph, replayed, is the eager step bit by bit: parameters, buffers, optimizers, what is logged."""

from typing import Any

import pytest
import torch

from ppvae import TrainConfig, registry
from ppvae.build import build
from ppvae.data import load
from ppvae.engine import EagerStep, GraphStep
from ppvae.errors import PairError
from ppvae.estimators import ESTIMATORS, find
from ppvae.pair import Pair

STEPS = 50
SMALL: dict[str, dict[str, Any]] = {
    "vae": {"latent": 3, "hidden": [8]},
    "autoencoder": {"latent": 3, "hidden": [8]},
    "conv_vae": {"latent": 3, "width": 4},
    "gmvae": {"latent": 3, "hidden": [8]},
    "categorical_vae": {"codes": 2, "categories": 3, "hidden": [8]},
    "bernoulli_vae": {"latent": 4, "hidden": [8]},
    "sigmoid_belief_network": {"layers": [4, 3]},
}
ARCHETYPES = {"one layer": "ppca_mean_field", "hierarchy": "linear_hierarchy", "discrete": "bernoulli_vae"}

SEVERAL = ("iwae", "vimco", "dreg", "gdreg", "iwae_stl", "rws", "ciwae", "renyi", "cubo", "tvo")


def trained(kind, pair: Pair, estimator: str, steps: int, options: dict[str, Any], **more: Any):
    """(every scalar of every step, the state at the end, the step): batches, knobs and rates that move."""
    data = None if pair.data is None else load(pair.data)
    built = build(pair, data, seed=0, **SMALL.get(pair.name or "", {}))
    built.train()
    made = find(estimator)
    rows = 0 if data is None else len(data.train)
    read: dict[str, Any] = {} if data is None else {"read": data.train.batch}
    made.prepare(built, {} if data is None else data.train.batch(torch.arange(2)))
    if data is None:
        built.score({})  # a bare pyro.param is made on first use
    step = kind(built, made, TrainConfig(**options), **read, **more)
    torch.manual_seed(1)
    logged = []
    for i in range(steps):
        given = {} if data is None else torch.arange(i * 12, (i + 1) * 12) % rows
        knobs = {name: torch.tensor(value) for name, value in made.schedule(i * 50).items()}
        if hasattr(made, "beta"):
            knobs["beta"] = torch.tensor(min(1.0, 0.1 + i / STEPS))
        logged.append(step(given, knobs, 1.0 - i / (2 * steps)))
    state = {**built.state_dict(), **{f"estimator.{k}": v for k, v in made.state_dict().items()}}
    for group, optimizer in step.optimizers.items():
        for i, values in optimizer.state_dict()["state"].items():
            state |= {f"{group}.{i}.{k}": v for k, v in values.items() if isinstance(v, torch.Tensor)}
    return logged, {name: value.detach().clone() for name, value in state.items()}, step


def assert_same(pair: str, estimator: str, steps: int = STEPS, **options: Any) -> None:
    found = registry.find(pair)
    try:
        logged, state, _ = trained(EagerStep, found, estimator, steps, options)
    except PairError:
        with pytest.raises(PairError):  # refused alike
            trained(GraphStep, found, estimator, 1, options, compile=False)
        return
    replayed, after, step = trained(GraphStep, found, estimator, steps, options, compile=False)
    assert step.reason is None
    assert all(program is not None for program in step.programs.values())
    assert len(step.programs) == 1
    assert [list(entry) for entry in logged] == [list(entry) for entry in replayed]
    for i, (wanted, got) in enumerate(zip(logged, replayed, strict=True)):
        assert all(torch.equal(wanted[name], got[name]) for name in wanted), (i, wanted, got)
    assert state.keys() == after.keys()
    assert [name for name in state if not torch.equal(state[name], after[name])] == []


@pytest.mark.parametrize("pair", registry.names())
def test_each_pair(pair):
    assert_same(pair, "elbo")


@pytest.mark.parametrize("archetype", ARCHETYPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_each_estimator(estimator, archetype):
    text = f"{estimator}:particles=3" if estimator in SEVERAL else estimator
    assert_same(ARCHETYPES[archetype], text)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "clip_norm": 0.5},
        {"optimizer": "rmsprop"},
        {"optimizer": "adamax", "lr_groups": {"guide": 0.01}},
        {"optimizer": "adam", "clip_norm": 0.1, "weight_decay": 0.01},
    ],
)
def test_each_optimizer(options):
    assert_same("ppca_mean_field", "elbo", 12, **options)


@pytest.mark.slow
@pytest.mark.parametrize("pair", registry.names())
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_full_grid(pair, estimator):
    assert_same(pair, estimator)

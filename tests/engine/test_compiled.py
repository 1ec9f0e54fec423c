"""The compiled step follows the eager one: the same draws, the same curve up to rounding."""

from typing import Any

import pytest
import torch
from torch import nn

from ppvae import TrainConfig
from ppvae.build import build
from ppvae.engine import EagerStep, GraphStep, compiling
from ppvae.engine import program as program_module
from ppvae.engine.program import Halves, Whole
from ppvae.estimators import ELBO, Objective, find
from ppvae.pair import Pair
from tests.toys import MLP_VAE, Encoder, bits

pytestmark = pytest.mark.skipif(
    compiling.missing_compiler(torch.device("cpu")) is not None, reason="there is no C++ compiler"
)


def states(kind, estimator="elbo", pair: Pair = MLP_VAE, steps: int = 30, given=bits, **options: Any):
    """(losses, state with the optimizers', the step) after so many steps on moving batches."""
    built = build(pair)
    made = find(estimator) if isinstance(estimator, str) else estimator()
    made.prepare(built, given())
    step = kind(built, made, TrainConfig(**{"lr": 0.01, **options}))
    torch.manual_seed(3)
    losses = []
    for i in range(steps):
        knobs = {"beta": torch.tensor(0.5 + 0.01 * i)}
        losses.append(float(step(given(8, seed=i), knobs, 1.0 - i / 100)["loss"]))
    state = {**built.state_dict(), **made.state_dict()}
    for group, optimizer in step.optimizers.items():
        for i, values in optimizer.state_dict()["state"].items():
            state |= {f"{group}.{i}.{k}": v for k, v in values.items() if isinstance(v, torch.Tensor)}
    return losses, state, step


def assert_close(wanted, got, rel: float = 1e-4) -> None:
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        scale = float(value.abs().max()) + 1e-6
        assert float((value.double() - got[name].double()).abs().max()) <= rel * scale, name


@pytest.mark.parametrize(
    ("options", "program"),
    [
        ({"optimizer": "adam", "clip_norm": 0.5, "weight_decay": 0.01, "lr_groups": {"guide": 0.02}}, Whole),
        ({"optimizer": "adamw", "weight_decay": 0.3}, Whole),
        ({"optimizer": "sgd", "lr": 1e-3}, Halves),
    ],
)
def test_the_curves_coincide(options, program):
    """Within 1e-4 of each tensor's largest entry after 30 steps: moments and step counts, too."""
    losses, state, _ = states(EagerStep, **options)
    compiled, after, step = states(GraphStep, **options)
    assert step.reason is None
    assert [type(p) for p in step.programs.values()] == [program]
    assert losses == pytest.approx(compiled, rel=1e-4)
    assert_close(state, after)


class Normed(nn.Module):
    """A guide whose BatchNorm has statistics that move in training."""

    def __init__(self, model):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.encoder = Encoder(model)

    def forward(self, x):
        self.encoder(self.norm(x))


def test_buffers_move_in_the_compiled_step():
    pair = Pair(model=MLP_VAE.model, guide=Normed, data=None)
    _, state, _ = states(EagerStep, pair=pair, steps=8)
    _, after, step = states(GraphStep, pair=pair, steps=8)
    assert step.reason is None
    assert int(after["guide.norm.num_batches_tracked"]) == 8
    assert_close(state, after)


class Biased(nn.Module):
    """A bias before a BatchNorm: its gradient is zero, and what is left of it is rounding."""

    def __init__(self, model):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.encoder = Encoder(model)

    def forward(self, x):
        self.encoder(self.net(x))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_gradient_that_is_nothing_but_rounding_is_no_difference(optimizer):
    pair = Pair(model=MLP_VAE.model, guide=Biased, data=None)
    assert states(GraphStep, pair=pair, steps=4, optimizer=optimizer)[2].reason is None


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_compiler_that_gets_a_gradient_wrong_is_found_out(monkeypatch, optimizer):
    """By a thousandth, of one parameter."""

    def wrong(graph, inputs):
        def call(*tensors):
            outputs = list(graph(*tensors))
            if optimizer == "sgd":
                outputs[-1] = outputs[-1] * 1.001
            else:  # the last first moment: half of what comes after the parameters
                moments = tensors[-16:]
                moments[7].mul_(1.001)
            return outputs

        return call

    monkeypatch.setattr(program_module, "compiled", wrong)
    _, _, step = states(GraphStep, steps=3, optimizer=optimizer)
    assert "compiled, the graph gets a tensor of shape" in str(step.reason)


class Bursting(ELBO):
    """Its loss, or its gradient alone, is no number where the knob says so; it keeps a running mean."""

    def __init__(self, where: str = "loss"):
        super().__init__()
        self.where = where
        self.register_buffer("mean", torch.zeros(()))

    def objective(self, terms, knobs):
        broken = knobs["broken"]
        found = super().objective(terms, {})
        assert isinstance(self.mean, torch.Tensor)
        with torch.no_grad():
            self.mean += 0.1 * (torch.where(broken > 0, torch.nan, found.losses["all"]) - self.mean)
        loss = found.losses["all"]
        if self.where == "loss":
            return Objective(found.bound, {"all": loss * torch.where(broken > 0, torch.nan, 1.0)})
        # 1, or 0 with a slope: what is 0 times anything is folded away by some compilers
        root = (1 - broken) + broken * (loss - loss.detach())
        return Objective(found.bound, {"all": loss + root.sqrt() - root.sqrt().detach()})


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("kind", ["eager", "replayed", "compiled"])
def test_a_step_that_is_not_finite_moves_nothing(kind, where, optimizer):
    """Neither parameters nor moments, step counts and buffers; the next one goes on."""
    if (kind, where) == ("compiled", "gradient") and optimizer != "adam":
        pytest.skip("compiled once for each program")
    built, estimator = build(MLP_VAE), Bursting(where)
    config = TrainConfig(lr=0.01, optimizer=optimizer)
    step = (
        EagerStep(built, estimator, config)
        if kind == "eager"
        else GraphStep(built, estimator, config, compile=kind == "compiled")
    )
    seen = []
    for i in range(8):
        step(bits(seed=i), {"broken": torch.tensor(float(i == 5))})
        kept = {
            name: value.clone() for name, value in {**built.state_dict(), **estimator.state_dict()}.items()
        }
        for group, optimizers in step.optimizers.items():
            for j, values in optimizers.state_dict()["state"].items():
                kept |= {f"{group}.{j}.{k}": v.clone() for k, v in values.items() if v is not None}
        seen.append((kept, bool(step.finite)))
    assert [finite for _, finite in seen] == [True] * 5 + [False] + [True] * 2
    before, at, after = seen[4][0], seen[5][0], seen[6][0]
    assert [name for name in before if not torch.equal(before[name], at[name])] == []
    assert not any(torch.equal(at[name], after[name]) for name in at)
    assert all(bool(value.isfinite().all()) for kept, _ in seen for value in kept.values())


def test_without_a_compiler_it_is_eager_with_a_line(monkeypatch):
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: "there is no C++ compiler: install g++")
    losses, _, step = states(GraphStep, steps=4)
    assert "there is no C++ compiler: install g++" in str(step.account)
    assert losses == states(EagerStep, steps=4)[0]

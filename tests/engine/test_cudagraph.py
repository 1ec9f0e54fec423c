"""A recorded step: what it reads lies at fixed places. The recorder here replays by computing again."""

import pytest
import torch

from ppvae import TrainConfig
from ppvae.build import build
from ppvae.engine import CudaGraphStep, EagerStep, GraphStep, graph, program
from ppvae.engine.cudagraph import WARM_UP, Captured
from ppvae.engine.program import Halves, Whole
from ppvae.errors import UsageError
from ppvae.estimators import find
from tests.toys import MLP_VAE, bits


def replaying(compute):
    """Warm up, record, and hand out one storage that each replay fills: as CUDA's recorder does."""
    for _ in range(WARM_UP):
        compute()
    outputs = compute()

    def replay():
        for place, value in zip(outputs, compute(), strict=True):
            place.copy_(value)

    return outputs, replay


class Recorded(GraphStep):
    capture = True


@pytest.fixture
def uncompiled(monkeypatch):
    """The whole step, operation by operation."""
    monkeypatch.setattr(program, "compiled", lambda flat, inputs: flat)
    monkeypatch.setattr(graph, "Captured", lambda *args: Captured(*args, recorder=replaying))


def run(kind, steps: int = 12, **options):
    built = build(MLP_VAE)
    step = kind(built, find("elbo"), TrainConfig(lr=0.01, clip_norm=1.0, **options))
    torch.manual_seed(2)
    logged = []
    for i in range(steps):
        knobs = {"beta": torch.tensor(i / steps)}
        logged.append({k: v.clone() for k, v in step(bits(8, seed=i), knobs, 1 - i / steps).items()})
    state = dict(built.state_dict())
    for group, optimizer in step.optimizers.items():
        for i, values in optimizer.state_dict()["state"].items():
            state |= {f"{group}.{i}.{k}": v for k, v in values.items()}
    return logged, state, step


@pytest.mark.usefixtures("uncompiled")
def test_a_recorded_step_is_the_step():
    """New batches, knobs, rates and draws in every replay; the warm-up leaves no trace. Bit-equal to the same
    step unrecorded, and to torch's Adam up to rounding."""
    recorded, state, step = run(Recorded)
    assert [type(p) for p in step.programs.values()] == [Captured]
    whole, same, other = run(GraphStep)
    assert [type(p) for p in other.programs.values()] == [Whole]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(recorded, whole, strict=True) for k in a)
    assert all(torch.equal(state[name], same[name]) for name in state)
    _, eager, _ = run(EagerStep)
    assert all(torch.allclose(state[name], eager[name], rtol=1e-5, atol=1e-6) for name in state)


@pytest.mark.usefixtures("uncompiled")
def test_what_is_not_captured_runs_as_a_graph_and_says_why(monkeypatch):
    def fails(*args):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graph, "Captured", fails)
    _, _, step = run(Recorded)
    assert [type(p) for p in step.programs.values()] == [Whole]
    assert step.reason == "CUDA does not capture it (operation not permitted when stream is capturing)"


@pytest.mark.usefixtures("uncompiled")
def test_an_optimizer_outside_the_graph_is_not_captured(monkeypatch):
    monkeypatch.setattr(Halves, "compile", lambda *_: None)
    _, _, step = run(Recorded, optimizer="sgd")
    assert [type(p) for p in step.programs.values()] == [Halves]
    assert step.reason == "optimizer=sgd is not part of the graph"


def test_it_takes_a_gpu():
    with pytest.raises(
        UsageError, match="engine=cudagraph is of GPUs, and this runs on the CPU: use --engine graph"
    ):
        CudaGraphStep(build(MLP_VAE), find("elbo"), TrainConfig())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("estimator", ["elbo", "iwae:particles=5", "dreg:particles=5"])
def test_on_a_gpu_it_follows_the_eager_step(estimator):
    """The same draws; parameters within 1e-3 of the largest after 20 steps."""
    states = []
    for kind in (EagerStep, CudaGraphStep):
        built = build(MLP_VAE).to("cuda")
        step = kind(built, find(estimator), TrainConfig(lr=0.01))
        torch.manual_seed(0)
        for i in range(20):
            step({name: value.cuda() for name, value in bits(8, seed=i).items()}, {})
        states.append(built.state_dict())
    for name, value in states[0].items():
        assert float((value - states[1][name]).abs().max() / value.abs().max()) < 1e-3

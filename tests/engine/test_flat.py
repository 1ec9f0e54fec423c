"""A flat graph reads what it is given and what it holds, and freezes neither."""

import numpy as np
import pytest
import torch
from torch import nn

from ppvae import TrainConfig
from ppvae.build import build
from ppvae.engine import EagerStep, GraphStep
from ppvae.engine.flat import flat
from ppvae.engine.untraceable import CannotTrace
from ppvae.errors import PairError
from ppvae.estimators import ELBO, Estimator, find
from tests.toys import MLP_VAE, bits


def graph_step(estimator: Estimator | str = "elbo", pair=MLP_VAE, **options):
    built = build(pair)
    made = find(estimator) if isinstance(estimator, str) else estimator
    made.prepare(built, bits())
    return GraphStep(built, made, TrainConfig(**options), compile=False)


def test_a_parameter_that_moves_is_seen():
    """A compiler may freeze what is an attribute of the graph; ours has none."""
    weight, x = nn.Parameter(torch.ones(3)), torch.tensor([1.0, 2.0, 3.0])
    found = flat(lambda x: [(weight * x).sum()], [x])
    assert not [node for node in found.graph.graph.nodes if node.op == "get_attr"]
    assert float(found(x)[0]) == 6.0
    with torch.no_grad():
        weight.mul_(10)
    assert float(found(x)[0]) == 60.0
    assert float(found(2 * x)[0]) == 120.0


def test_each_tensor_is_held_once():
    weight = nn.Parameter(torch.ones(3))
    found = flat(lambda x: [(weight * x).sum() + weight.sum()], [torch.ones(3)])
    assert len(found.held) == 1
    assert found.held[0] is weight


def test_tracing_changes_nothing():
    """Not a buffer of one entry, which is a constant to the tracer and really moves, and not a generator."""
    net = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    found = flat(lambda x: [net(x + torch.randn_like(x)).sum()], [torch.randn(5, 3)], list(net.buffers()))
    torch.manual_seed(0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    torch.set_rng_state(random)
    found(torch.randn(5, 3))
    assert net.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: [x * float(x.sum())], r"a number is read off a tensor .*test_flat.py:\d+"),
        (lambda x: [x * 2 if x.sum() > 0 else x], r"a number is read off a tensor .*test_flat.py:\d+"),
        (lambda x: [x[x > 0].sum()], r"shape of a tensor depends on its numbers .*test_flat.py:\d+"),
        (lambda x: [x.nonzero().sum()], r"shape of a tensor depends on its numbers .*test_flat.py:\d+"),
        (lambda x: [torch.rand(3, generator=torch.Generator()) * x], "a draw has a generator of its own"),
    ],
)
def test_what_cannot_be_traced_says_why_and_where(function, reason):
    with pytest.raises(CannotTrace, match=reason):
        flat(function, [torch.ones(3)])


def test_two_names_of_one_memory_of_which_one_is_written_to():
    buffer = torch.zeros(3)
    view = buffer[:2]

    def function(x):
        buffer.add_(x)
        return [view.sum()]

    with pytest.raises(CannotTrace, match="shares its memory with another: clone one of them"):
        flat(function, [torch.ones(3)], [buffer])


class Frozen(ELBO):
    """Weighs the loss by a number that Python moves from call to call."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.calls = draw, 0

    def objective(self, terms, knobs):
        self.calls += 1
        found = super().objective(terms, knobs)
        found.losses["all"] = found.losses["all"] * self.draw(self, knobs)
        return found


class Reading(ELBO):
    """Asks the device for a number."""

    def objective(self, terms, knobs):
        found = super().objective(terms, knobs)
        found.losses["all"] = found.losses["all"] * (1 + abs(float(found.losses["all"])))
        return found


@pytest.mark.parametrize(
    "draw",
    [lambda self, knobs: 1.0 / self.calls, lambda self, knobs: float(np.random.rand())],
    ids=["a counter", "numpy"],
)
def test_what_python_moves_is_found_out_and_stays_right(draw):
    """The step says what would be frozen, and goes on in eager: as if it had never been traced."""
    step = graph_step(Frozen(draw))
    for _ in range(4):
        step(bits(), {})
    assert step.reason is not None
    assert "no tensor moves from step to step" in step.reason
    assert list(step.programs.values()) == [None]


def test_a_knob_is_an_input():
    """One graph serves all values of beta."""
    step = graph_step()
    seen = []
    for beta in (1.0, 0.5, 0.25):
        torch.manual_seed(0)
        seen.append(float(step(bits(), {"beta": torch.tensor(beta)})["loss"]))
    assert len(step.programs) == 1
    assert len(set(seen)) == 3


def test_a_new_shape_is_traced_once():
    step = graph_step()
    for rows in (6, 6, 4, 6, 4):
        step(bits(rows), {})
    assert len(step.programs) == 2


@pytest.mark.parametrize("change", ["dtype", "stride", "training", "threads"])
def test_what_a_graph_takes_for_granted_is_of_its_kind(change):
    step = graph_step()
    batch = {"x": bits(6)["x"]}
    step(batch, {})
    step(batch, {})
    threads = torch.get_num_threads()
    try:
        if change == "dtype":
            batch = {"x": batch["x"].double()}
        elif change == "stride":
            batch = {"x": batch["x"].t().contiguous().t()}
        elif change == "training":
            step.built.eval()
        else:
            torch.set_num_threads(threads + 1)
        assert step._kind(batch, {}) not in step.programs
    finally:
        torch.set_num_threads(threads)


def test_the_first_batch_is_validated():
    step = graph_step()
    with pytest.raises((ValueError, PairError), match="within the support"):
        step({"x": torch.full((4, 6), 0.5)}, {})


def test_where_there_is_no_graph_it_is_the_eager_step():
    states = []
    for kind in (EagerStep, GraphStep):
        built = build(MLP_VAE)
        step = kind(built, Reading(), TrainConfig())
        torch.manual_seed(3)
        for i in range(5):
            step(bits(6, seed=i), {})
        states.append(built.state_dict())
    assert isinstance(step, GraphStep)
    assert "a number is read off a tensor" in str(step.account)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

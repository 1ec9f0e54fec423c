"""Times: every part is there, what is timed is the step itself, and nothing is left behind. No duration is
asserted."""

import dataclasses
import io
import itertools
import json
import statistics
import time

import pytest
import torch
from rich.console import Console

from ppvae.config import TrainConfig
from ppvae.errors import PairError, UsageError
from ppvae.pair import Pair
from ppvae.speed import Speed, Wait, floor, speed_of, timing
from ppvae.speed.recording import Like, record
from ppvae.speed.report import NOT_ASKED
from ppvae.speed.subject import Subject, subject
from tests.toys import MLP_VAE, bits, dataset


def toy(**options) -> Subject:
    torch.manual_seed(0)
    return subject(MLP_VAE, dataset(bits(20)), TrainConfig(check=False, batch=8, **options))


@pytest.fixture(scope="module")
def found() -> Speed:
    return speed_of(MLP_VAE, dataset(bits(20)), batch=8, check=False, compile=False, seconds=0.05)


def test_every_part_is_there_and_takes_time(found):
    assert tuple(found.times.parts) == timing.PARTS
    assert all(seconds > 0 for seconds in found.times.parts.values())
    assert found.times.eager > 0
    assert found.floor.products > 0
    assert found.floor.update > 0
    assert found.floor.precision == "bfloat16"


def test_the_ratios_are_those_of_the_times(found):
    total = found.floor.products + found.floor.update
    assert found.eager_over_floor == found.times.eager / total
    assert (found.times.graph, found.graph_over_floor, found.compiled) == (None, None, None)
    assert found.no_graph == NOT_ASKED


def test_what_was_measured_is_said(found):
    setting = found.setting
    assert (setting.estimator, setting.particles, setting.batch) == ("elbo", 1, 8)
    assert (setting.optimizer, setting.device, setting.threads, setting.dtype) == (
        "adam",
        "cpu",
        1,
        "float32",
    )


def test_it_goes_into_json_and_onto_paper(found):
    told = json.loads(json.dumps(found.to_dict()))
    assert told["counts"]["breaks"] == 0
    assert told["eager_over_floor"] == found.eager_over_floor
    paper = io.StringIO()
    found.render(Console(file=paper, width=80))
    shown = paper.getvalue()
    for word in (*timing.PARTS, "synchronizations", "graph breaks", "kernels", "floor", "what to change"):
        assert word in shown
    table = shown[: shown.index("kernel: a call")]
    assert max(len(line.rstrip()) for line in table.splitlines()[1:]) <= 80


def test_what_waits_and_is_no_obstacle_to_a_graph_is_not_gone_in_it(found):
    def row(**counts) -> list[str]:
        paper = io.StringIO()
        changed = dataclasses.replace(found, counts=dataclasses.replace(found.counts, **counts))
        changed.render(Console(file=paper, width=80))
        return next(line for line in paper.getvalue().splitlines() if "synchronizations" in line).split()[1:3]

    wait = Wait("_linalg_check_errors", "own.py:7", 2)
    assert row() == ["0", "0"]
    assert row(waits=(wait,)) == ["2", "2"]
    assert row(waits=(wait,), breaks=1) == ["2", "-"]


def test_nets_in_another_precision_are_told():
    found = speed_of(
        MLP_VAE,
        dataset(bits(20)),
        batch=8,
        check=False,
        compile=False,
        seconds=0.0,
        precision="bf16",
    )
    paper = io.StringIO()
    found.render(Console(file=paper, width=200))
    assert "float32 with nets in bf16" in paper.getvalue()
    assert found.setting.precision == "bf16"


def test_compiled_its_graph_is_timed_and_its_kernels_are_counted():
    found = speed_of(MLP_VAE, dataset(bits(20)), batch=8, check=False, seconds=0.05)
    assert found.no_graph is None
    assert found.times.graph is not None
    assert found.times.graph > 0
    assert found.times.compiling is not None
    assert found.compiled is not None
    assert found.compiled.whole
    assert found.compiled.called >= found.counts.products
    assert 0 < found.compiled.fused < found.counts.kernels - found.counts.products


def test_nothing_outside_is_moved():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    speed_of(MLP_VAE, dataset(bits(20)), batch=8, check=False, compile=False, seconds=0.0, seed=3, threads=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_what_is_taken_apart_is_the_very_step():
    """The same draws and updates, bit by bit, and no clock stays behind."""
    one, other = toy(), toy()
    torch.manual_seed(1)
    timing.parts(one)(3)
    torch.manual_seed(1)
    for batch in other.batches[:3]:
        other.eager(batch, other.knobs)
    for a, b in zip(one.built.parameters(), other.built.parameters(), strict=True):
        assert torch.equal(a, b)
    for owner in (one.built, one.estimator, one.eager.updates):
        assert not {"run_guide", "run_model", "estimate", "finite", "apply"} & set(vars(owner))
    assert one.eager.read.__name__ == "batch"


def test_the_parts_are_what_lies_between_the_seams(monkeypatch):
    """By a clock that each call moves by a known amount: the guide 1 s, the model 2 s, the rest of the
    forward pass 4 s, the batch 8 s, the gradients 16 s, the optimizer 32 s."""
    now = [0.0]
    monkeypatch.setattr(timing, "clock_of", lambda device: lambda: now[0])
    made = toy()

    def taking(method, seconds):
        def run(*args, **options):
            now[0] += seconds
            return method(*args, **options)

        return run

    built, estimator, step = made.built, made.estimator, made.eager
    built.run_guide, built.run_model = taking(built.run_guide, 1.0), taking(built.run_model, 2.0)
    estimator.objective = taking(estimator.objective, 4.0)
    step.read = taking(step.read, 8.0)
    step.updates.apply = taking(step.updates.apply, 32.0)
    from ppvae.engine import eager

    monkeypatch.setattr(eager, "group_gradients", taking(eager.group_gradients, 16.0))
    assert timing.parts(made)(5) == {
        "data": 8.0,
        "guide": 1.0,
        "model": 2.0,
        "objective": 4.0,
        "backward": 16.0,
        "optimizer": 32.0,
    }


def test_whole_steps_are_timed_together(monkeypatch):
    now, made = [0.0], toy()
    monkeypatch.setattr(timing, "clock_of", lambda device: lambda: now[0])

    def step(given, knobs):
        now[0] += 3.0

    assert timing.whole(made, step, "eager")(4) == {"eager": 3.0}  # type: ignore[arg-type]


@pytest.mark.parametrize("together", [False, True])
def test_the_median_is_taken_over_rounds_in_turn(together, monkeypatch):
    """By a clock that moves 10 ms whenever it is read, so that a block of 30 ms is 3 steps; it is read once a
    round, and 40 ms are asked for. The first step of a block is for the caches, and is not counted."""
    clock, calls = itertools.count(), []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 1e-2 * next(clock))

    def measure(name):
        def run(steps):
            calls.append((name, steps))
            return {name: float(len(calls))}

        return run

    found = timing.interleaved({"a": measure("a"), "b": measure("b")}, seconds=0.04, together=together)
    own = [3] if together else [1, 1, 1]
    a_round = [(name, steps) for name in "ab" for steps in (1, *own)]
    assert calls == [("a", 1), ("a", 1), ("b", 1), ("b", 1), *a_round * timing.ROUNDS]
    counted = {name: [] for name in "ab"}
    for round_ in range(timing.ROUNDS):
        for i, (name, _) in enumerate(a_round):
            if i % (1 + len(own)):
                counted[name].append(4 + round_ * len(a_round) + i + 1)
    assert found == {name: statistics.median(values) for name, values in counted.items()}


def test_one_disturbed_step_does_not_move_what_is_told():
    values = itertools.cycle([1.0, 1.0, 1.0, 100.0, 1.0])
    found = timing.interleaved({"a": lambda steps: {"a": next(values)}}, seconds=0.001)
    assert found == {"a": 1.0}


def test_another_program_takes_no_time_of_a_thread_that_is_alone():
    before = torch.get_num_threads()
    try:
        for threads, clock in ((1, time.thread_time), (2, time.perf_counter)):
            torch.set_num_threads(threads)
            assert timing.clock_of(torch.device("cpu")) is clock
    finally:
        torch.set_num_threads(before)


def test_one_thread_is_for_that_measure_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = timing.on_one_thread(lambda steps: {"threads": float(torch.get_num_threads())})(1)
        assert seen == {"threads": 1.0}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ---- the floor


@pytest.fixture
def as_they_are(monkeypatch):
    """Products by torch's own library alone."""
    monkeypatch.setattr("ppvae.engine.products.available", lambda: False)


def test_the_floor_replays_the_products_and_nothing_else(as_they_are):
    made = toy()
    seen = record(made.eager, made.batches[0], made.knobs)
    again = record(floor.Products(seen.products))
    assert again.flops == seen.flops > 0
    assert [o.name for o in again.kernels] == [o.name for o in seen.products]
    for new, old in zip(again.products, seen.products, strict=True):
        assert [a for a in new.args if isinstance(a, Like)] == [a for a in old.args if isinstance(a, Like)]


def test_each_product_is_done_in_the_way_that_a_graph_would_take(monkeypatch):
    monkeypatch.setattr("ppvae.engine.products.available", lambda: True)
    monkeypatch.setattr("ppvae.engine.products.fastest", lambda *_: ("straight", 0.0))
    x, w = torch.randn(4, 3), torch.randn(3, 2)
    seen = record(lambda: (x @ w, torch.addmm(w[0], x, w), torch.bmm(x[None], w[None])))
    targets = [node.target for node in floor.Products(seen.products).graph.graph.nodes]
    calls = [str(t) for t in targets if isinstance(t, torch._ops.OpOverload)]
    assert calls == ["ppvae.straight.default", "ppvae.straight.default", "aten.bmm.default"]


def test_convolutions_and_their_gradients_are_products():
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3, requires_grad=True)
    seen = record(lambda: torch.nn.functional.conv2d(x, w).sum().backward())
    assert [o.name for o in seen.products] == ["convolution", "convolution_backward"]
    forward = 2 * 2 * 4 * 6 * 6 * 3 * 3 * 3
    assert [o.flops for o in seen.products] == [forward, forward]  # x has no gradient
    assert record(floor.Products(seen.products)).flops == seen.flops


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(3, 4).T,
        torch.randn(4).expand(3, 4),
        torch.randn(0, 4),
        torch.randn(6, 4)[::2, 1:],
        torch.arange(5),
        torch.randn(3, dtype=torch.float64),
    ],
)
def test_a_tensor_is_made_again_but_for_its_numbers(tensor):
    like = Like(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
    made = floor.tensor(like)
    assert (made.shape, made.stride(), made.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    lower = floor.tensor(like, lower=True).dtype
    assert lower == floor.LOWER.get(tensor.dtype, tensor.dtype)


def test_the_optimizer_of_the_floor_is_one_fused_pass_over_as_many_parameters():
    parameters = [torch.randn(50, 4), torch.randn(7)]
    before = [p.clone() for p in parameters]
    for kind, name in (("adam", "_fused_adam_"), ("sgd", "_fused_sgd_"), ("rmsprop", "_fused_adam_")):
        measure = floor.optimizer(parameters, kind, torch.device("cpu"), "update")
        measure(1)
        kernels = [o for o in record(measure, 1).kernels if "fused" in o.name]
        assert [o.name for o in kernels] == [name]
        assert [like.shape for like in kernels[0].args[0]] == [(50, 4), (7,)]
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_products_that_the_machine_lacks_are_no_candidates():
    x = torch.randn(2, 2)
    seen = record(lambda: x @ x)
    assert floor.Products(seen.products).run()
    other = dataclasses.replace(seen.products[0], kwargs={"out_dtype": torch.int8})
    assert not floor.Products([other]).run()


# ---- what cannot be measured


def test_a_pair_without_its_data_is_told_so():
    with pytest.raises(PairError, match="has no data"):
        speed_of(MLP_VAE, check=False)
    with pytest.raises(PairError, match="has no data"):
        speed_of(MLP_VAE)


def test_a_broken_pair_is_refused_before_anything_is_timed():
    def guide(x, *, n=None):
        pass

    with pytest.raises(PairError, match="'z'"):
        speed_of(Pair(model=MLP_VAE.model, guide=guide, data=None), dataset(bits(20)))


def test_an_option_that_training_has_not_is_refused():
    with pytest.raises(UsageError, match="no option 'batches'"):
        speed_of(MLP_VAE, dataset(bits(20)), batches=3)

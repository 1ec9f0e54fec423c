"""`auto` weighs the steps that are left against the compilation, once, and says what it chose and why."""

from typing import Any

import pytest
import torch

from ppvae import TrainConfig, fit
from ppvae.build import build
from ppvae.engine import AutoStep, EagerStep, GraphStep, auto, costs
from ppvae.engine.costs import Cost
from ppvae.engine.program import Halves
from ppvae.estimators import find
from ppvae.runs import Run
from tests.toys import MLP_VAE, bits, dataset

QUICK: dict[str, Any] = {"batch": 5, "check": False, "progress": False}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eager steps take 10 ms and compiled ones as told; nothing is compiled, and costs are remembered."""
    state = {"now": 0.0, "graph": 0.004, "compiled": 0}
    monkeypatch.setattr(costs, "folder", lambda: tmp_path / "costs")
    monkeypatch.setattr(AutoStep, "_now", lambda self: state["now"])
    eager, graph = EagerStep.__call__, GraphStep.__call__

    def slow(self, *args):
        state["now"] += 0.01
        return eager(self, *args)

    def quick(self, *args):
        state["now"] += state["graph"]
        return graph(self, *args)

    def replayed(self, traced, given, knobs):
        state["compiled"] += 1
        self.programs[self._kind(given, knobs)] = Halves(traced, self.updates)
        return True

    monkeypatch.setattr(EagerStep, "__call__", slow)
    monkeypatch.setattr(GraphStep, "__call__", quick)
    monkeypatch.setattr(GraphStep, "_compiled", replayed)
    return state


def run(left: int, steps: int = 60) -> AutoStep:
    step = AutoStep(build(MLP_VAE), find("elbo"), TrainConfig())
    step.left = left
    for i in range(steps):
        step(bits(seed=i), {})
    return step


def test_few_steps_are_eager_and_nothing_is_traced(machine, monkeypatch):
    monkeypatch.setattr(AutoStep, "traced", lambda *_: pytest.fail("traced"))
    step = run(left=1000)
    assert step.chosen == "eager"
    assert step.account == "engine: eager, 980 steps to go take about 10 s, too few to compile for"


def test_many_steps_are_compiled_for(machine):
    step = run(left=100_000)
    assert (step.chosen, machine["compiled"]) == ("graph", 1)
    assert step.account is not None
    assert step.account.startswith(
        "engine: graph, 99,980 steps to go take about 1000 s, a graph saves about 200 s"
    )
    assert step.account.endswith("a step takes 0.40 of the eager one's time")


def test_what_compiling_cost_and_saved_is_remembered(machine):
    """The second time a tenth of the steps is enough, since it is known to be quick, and to save .6."""
    few = run(left=2_500)
    assert few.chosen == "eager"
    run(left=100_000)
    again = run(left=2_500)
    assert again.chosen == "graph"


def test_what_a_graph_mode_compiled_is_remembered_too(machine):
    """It saves what one hopes for, and is in the compiler's cache."""
    assert run(left=2_500).chosen == "eager"
    step = GraphStep(build(MLP_VAE), find("elbo"), TrainConfig())
    for i in range(3):
        step(bits(seed=i), {})
    again = run(left=2_500)
    assert again.chosen == "graph"
    assert "a graph saves about 5 s and takes 0 s to compile" in again.because


def test_a_first_compilation_is_not_what_the_next_one_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "folder", lambda: tmp_path)
    costs.remember_compiling("key", 10.0)
    assert costs.recall("key") == Cost(costs.AGAIN * 10.0)
    assert costs.recall("key").saves is None  # type: ignore[union-attr]
    costs.remember_steps("key", 0.02, 0.01)
    costs.remember_compiling("key", 3.0)
    assert costs.recall("key") == Cost(3.0, 0.02, 0.01)


def test_a_graph_that_is_slower_is_left_again(machine):
    machine["graph"] = 0.02
    step = run(left=100_000)
    assert step.chosen == "eager"
    assert step.account == "engine: eager, the compiled step took 2.00 of the eager one's time"


def test_where_there_is_no_graph_it_says_why(machine, monkeypatch):
    def none(self, *args):
        self.reason = "a number is read off a tensor"

    monkeypatch.setattr(GraphStep, "traced", none)
    assert run(left=100_000).account == "engine: eager, there is no graph: a number is read off a tensor"


def test_it_chooses_once_and_draws_what_eager_draws(machine):
    step = AutoStep(build(MLP_VAE), find("elbo"), TrainConfig())
    plain = EagerStep(build(MLP_VAE), find("elbo"), TrainConfig())
    step.left = 100_000
    states = []
    for kind in (step, plain):
        torch.manual_seed(0)
        for i in range(30):
            kind(bits(seed=i), {})
        states.append(kind.built.state_dict())
    assert step.chosen == "graph"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_resumed_run_keeps_the_choice(machine, tmp_path, monkeypatch):
    """It goes on in the graph from its first step, bit for bit as if it had never stopped."""
    monkeypatch.setattr(auto, "WATCHED", 5)
    data = dataset(bits(50))
    options = {**QUICK, "save": True, "lr": 0.01}
    monkeypatch.setattr(costs, "TRACING", 0.0)
    monkeypatch.setattr(costs, "first_compilation", lambda nodes: 0.0)
    straight = fit(MLP_VAE, data, epochs=4, out=tmp_path / "a", **options)
    begun = fit(MLP_VAE, data, epochs=2, out=tmp_path / "b", **options)
    assert begun.run is not None
    before = machine["compiled"]
    monkeypatch.setattr(AutoStep, "_choose", lambda *_: pytest.fail("chose again"))
    resumed = fit(MLP_VAE, data, resume=begun.run.path, epochs=4)
    assert machine["compiled"] == before + 1
    ours, theirs = straight.built.state_dict(), resumed.built.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    log = (Run.open(tmp_path / "b" / "latest").path / "log.txt").read_text()
    assert "engine: graph" in log


def test_costs_survive_what_is_no_record(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "folder", lambda: tmp_path)
    assert costs.recall("none") is None
    (tmp_path / "bad.json").write_text("[1, 2")
    assert costs.recall("bad") is None
    costs.remember("good", Cost(10.0, 0.02, 0.01))
    assert costs.recall("good") == Cost(10.0, 0.02, 0.01)
    assert costs.recall("good").saves == 0.5  # type: ignore[union-attr]
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(costs, "folder", lambda: tmp_path / "file" / "below")
    costs.remember("good", Cost(1.0, 1.0, 1.0))  # a folder that cannot be made

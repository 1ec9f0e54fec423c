"""Several processes take the step of one: two real ones, joined by gloo, and what they say of each other."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ppvae import checkpoint, fit
from ppvae.engine.program import Differentiated, whole
from ppvae.engine.ranks import Ranks
from ppvae.engine.shared_step import SharedUpdates
from ppvae.errors import UsageError
from ppvae.loop import Loop
from ppvae.runs import Run
from ppvae.state import flatten, noise_seed
from tests.engine.ranks_worker import QUICK
from tests.engine.shared_cases import CASES, step_of, trained
from tests.toys import MLP_VAE, bits

ROOT = Path(__file__).parents[2]
LIMIT = 120


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[list[dict[str, Any]], Path]:
    """What each scenario of `ranks_worker` gave on each of two processes, and their folder."""
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.engine.ranks_worker", str(folder)]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **os.environ,
                **together,
                "RANK": str(rank),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=LIMIT)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)], folder


def each(two, scenario: str) -> list[Any]:
    return [found[scenario] for found in two[0]]


def assert_same(found: dict[str, Any], wanted: dict[str, Any], to: float = 0.0, but: tuple[str, ...] = ()):
    assert found.keys() == wanted.keys()
    for name in found:
        if name not in but:
            torch.testing.assert_close(found[name], wanted[name], rtol=to, atol=to)


# ---- two are one


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_with_the_whole_batch(name, two):
    """Parameters, buffers and what is logged after three steps, of 3 and 4 data or of 4 and 4: to 1e-12 in
    double precision, to 2e-6 in single."""
    dtype, case = CASES[name]
    torch.set_default_dtype(dtype)
    alone = trained(ranks=Ranks(), **case)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    moved = trained(ranks=Ranks(), **{**case, "lr": 1e-300, "lr_groups": {}})
    parameters = [n for n, v in alone.items() if not n.startswith("logged.") and v.is_floating_point()]
    assert any(float((alone[n] - moved[n]).abs().max()) > 1e-3 for n in parameters if alone[n].numel())
    # The spread about the mean is that of each share about its own.
    but = ("guide.norm.running_var", "estimator.running_variance", *(alone if name == "batch_norm" else ()))
    for found in each(two, "exact"):
        assert_same(found[name], alone, tolerance, but)
        if name == "batch_norm":
            for figure in ("running_mean", "num_batches_tracked"):
                torch.testing.assert_close(found[name][f"guide.norm.{figure}"], alone[f"guide.norm.{figure}"])
    first, second = each(two, "exact")
    assert_same(first[name], second[name])


def test_a_mean_of_uneven_means_would_be_wrong():
    """So that the law above can fail: the gradients of 3 and of 4 data, averaged as if they were as many."""
    torch.set_default_dtype(torch.float64)
    case = {"pair": "normal", "estimator": "elbo", "steps": 1}
    start = trained(ranks=Ranks(), rows=7, **{**case, "lr": 1e-300})
    whole = trained(ranks=Ranks(), rows=7, **case)
    shares = [trained(ranks=_Share(rank, 2), rows=7, **case) for rank in range(2)]
    weight = "model.decoder.2.bias"
    moves = [found[weight] - start[weight] for found in (whole, *shares)]
    torch.testing.assert_close((3 * moves[1] + 4 * moves[2]) / 7, moves[0], rtol=1e-12, atol=1e-14)
    assert float(((moves[1] + moves[2]) / 2 - moves[0]).norm() / moves[0].norm()) > 0.01


class _Share(Ranks):
    """One of two that adds up nothing: its own mean alone."""

    def add(self, vector):
        return vector

    def gathered(self, value):
        return [value]


@pytest.mark.parametrize(("rows", "size"), [(7, 2), (8, 2), (5, 5), (100, 7)])
def test_every_row_has_one_rank_and_ranks_differ_by_one_at_most(rows, size):
    shares = [range(rows)[Ranks(rank, size).share(rows)] for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ---- the start, the noise, the data


def test_noise_differs_between_ranks_and_data_and_parameters_do_not(two):
    first, second = each(two, "noise")
    assert [len(drawn) for drawn in first["drawn"]] == [3, 3]
    assert [len(drawn) for drawn in second["drawn"]] == [4, 4]
    for a, b in zip(first["drawn"], second["drawn"], strict=True):
        assert not torch.isclose(a.unsqueeze(1), b).any()
    assert_same(first["state"], second["state"])
    assert [{**e, "seconds": 0} for e in first["history"]] == [{**e, "seconds": 0} for e in second["history"]]


def test_a_pair_without_data_is_trained_by_the_mean_of_what_the_ranks_drew(two):
    first, second = each(two, "joint")
    assert_same(first["state"], second["state"])
    assert first["losses"] == second["losses"]
    place = f"{ROOT}/tests/proof_pairs/undirected.py:QUADRATIC"
    alone = fit(place, estimator="elbo:particles=3", steps=3, log_every=1, **QUICK)
    assert first["losses"][0] != alone.history[0]["loss"]


def test_all_start_from_the_parameters_and_buffers_of_rank_0(two):
    first, second = each(two, "start")
    assert_same(first["after"], first["before"])
    assert_same(second["after"], first["before"])
    assert not torch.equal(
        second["before"]["guide.norm.running_mean"], first["before"]["guide.norm.running_mean"]
    )


def test_other_options_or_sizes_are_refused_on_all_ranks(two):
    for found in each(two, "start"):
        assert found["told"] == (
            "RunError: rank 1 has another lr than rank 0, 0.2 and not 0.1: start all with the same options, "
            "data and code"
        )
        assert "rank 1 has another list of parameters than rank 0" in found["sizes"]


# ---- steps that are not finite, and what a loss reaches


@pytest.mark.parametrize("loss", [True, False])
def test_what_is_not_finite_on_one_rank_moves_nothing_on_any(loss, two):
    for rank, found in enumerate(each(two, "nonfinite")):
        first, second, third = found[loss]["states"]
        assert found[loss]["finite"] == [(True, True), (False, rank == 0), (True, True)]
        assert_same(second, first, but=("guide.norm.num_batches_tracked",))
        assert not torch.equal(third["model.decoder.0.weight"], second["model.decoder.0.weight"])
        assert all(bool(tensor.isfinite().all()) for tensor in (*third.values(), *found[loss]["moments"]))
    first, second = (found[loss]["states"][-1] for found in each(two, "nonfinite"))
    assert_same(first, second)


def test_a_parameter_that_one_rank_does_not_reach_gets_the_gradient_of_the_other(two):
    first, second = each(two, "reach")
    assert_same(first["after"], second["after"])
    for name, before in first["before"].items():
        assert not torch.equal(first["after"][name], before), name


def test_a_parameter_that_no_rank_reached_at_first_is_refused_later(two):
    for found in each(two, "reach"):
        assert "has changed since the first step" in found["late"]


# ---- engines


def test_a_replayed_graph_takes_the_step_of_the_eager_one_bit_for_bit(two):
    for found in each(two, "engines"):
        assert found["reason"] is None
        assert_same(found["graph"], found["eager"])


def test_auto_does_on_all_ranks_what_rank_0_finds(two):
    first, second = each(two, "chosen")
    for name, mode, because in (
        ("pays", "graph", "to compile; a step takes 1.00 of"),
        ("fails", "eager", "rank 1 has no graph"),
        ("slower", "eager", "the compiled step took 10.00 of"),
    ):
        assert (first[name]["chosen"], second[name]["chosen"]) == (mode, mode)
        assert because in first[name]["because"]
        assert first[name]["because"] == second[name]["because"]
        assert_same(first[name]["state"], second[name]["state"])


def test_no_graph_has_the_optimizers_in_it():
    """They wait for the sum of what the ranks found."""
    built, estimator, step, batch = step_of("normal", "elbo", 7, Ranks(), optimizer="adam")
    step(batch, {})
    traced = Differentiated(step.differentiate, batch, {})
    shared = SharedUpdates(built, estimator, step.config, Ranks())
    shared.optimizers = step.optimizers
    assert whole(traced, shared, batch, {}) is None


# ---- runs


def test_rank_0_alone_has_the_run(two):
    first, second = each(two, "runs")
    assert first["made"] == [True] * 4
    assert second["made"] == [False] * 4
    folder = two[1]
    names = [path for path in (folder / "straight").iterdir() if not path.is_symlink()]
    assert len(names) == 1


def test_two_that_go_on_are_two_that_went_straight_bit_for_bit(two):
    for found in each(two, "runs"):
        assert found["whole"][0] == found["straight"][0] == 9
        assert_same(found["whole"][1], found["straight"][1])
    metrics = [Run.open(two[1] / name / "latest").metrics() for name in ("straight", "begun")]
    assert [{**e, "seconds": 0} for e in metrics[0]] == [{**e, "seconds": 0} for e in metrics[1]]


def test_all_stop_by_the_patience_of_one_and_keep_the_same_parameters(two):
    first, second = each(two, "runs")
    assert first["patient"][0] == second["patient"][0] < 160
    assert_same(first["patient"][1], second["patient"][1])


def data() -> dict[str, Any]:
    return {"train": bits(29)["x"], "valid": bits(12, seed=1)["x"]}


def test_one_goes_on_from_exactly_the_state_of_two(two, tmp_path, monkeypatch):
    """Parameters, moments and step count, bit for bit; the generators are those of the rule."""
    run = _copied(two[1] / "straight", tmp_path / "run")
    seen: list[Any] = []
    monkeypatch.setattr(Loop, "go", lambda loop: seen.extend([loop, torch.rand(3)]))
    fit(MLP_VAE, data(), resume=run, steps=12)
    loop, drawn = seen
    last = checkpoint.latest(Run.open(run).checkpoints)
    assert last is not None
    tensors, state = checkpoint.load(last)
    assert (loop.step_count, state["step"], len(state["further_generators"])) == (9, 9, 1)
    assert_same({f"pair.{name}": v for name, v in loop.built.state_dict().items()}, part(tensors, "pair."))
    moments = {}
    for group, optimizer in loop.step.optimizers.items():
        flat, _ = flatten(optimizer.state_dict())
        moments |= {f"optimizer.{group}.{name}": value for name, value in flat.items()}
    assert len(moments) > 8
    assert_same(moments, part(tensors, "optimizer."))
    torch.manual_seed(noise_seed(0, 0, 9))
    assert torch.equal(torch.rand(3), drawn)


def test_one_goes_on_where_two_left_off(two, tmp_path):
    """Over the data that they would have seen; every time alike."""
    ends = []
    for name in ("a", "b"):
        run = _copied(two[1] / "straight", tmp_path / name)
        resumed = fit(MLP_VAE, data(), resume=run, steps=12)
        assert (resumed.step, resumed.run is not None) == (12, True)
        assert [entry["step"] for entry in Run.open(run).metrics() if "loss" in entry] == [3, 6, 9, 12]
        assert "2 processes until step 9, 1 from there on: draws seeded anew" in (run / "log.txt").read_text()
        ends.append(resumed.built.state_dict())
    assert_same(*ends)


def part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


def _copied(runs: Path, to: Path) -> Path:
    """A copy of the only run of a folder."""
    return Path(shutil.copytree((runs / "latest").resolve(), to))


def test_seeds_of_noise_differ_by_seed_rank_and_step():
    seeds = {noise_seed(seed, rank, step) for seed in (0, 1) for rank in range(4) for step in (0, 1, 50)}
    assert len(seeds) == 24
    assert [noise_seed(3, rank) for rank in range(3)] == [3, 10_003, 20_003]
    assert 0 <= noise_seed(2**32 - 1, 7, 10**9) < 2**32


# ---- what ends


def test_an_error_that_somebody_catches_on_one_rank_ends_the_others_too(two):
    first, second = each(two, "left")
    assert second["error"] == "ValueError: of rank 1"
    # Closed or reset, as the end of the connection comes before or after what is sent.
    lost = (
        r"RunError: the other 1 of 2 processes are lost \((Connection closed|Read error).*go on from the last"
    )
    assert re.match(lost, first["error"])
    assert first["seconds"] < 30


@pytest.mark.parametrize("options", [{"engine": "pyro"}, {"batch": 1}])
def test_what_is_not_for_several_processes_is_refused(options, monkeypatch):
    monkeypatch.setattr("ppvae.loop.here", lambda: Ranks(0, 2))
    with pytest.raises(
        UsageError, match="not for 2 processes: use --engine auto or eager or graph, and a --ba"
    ):
        fit(MLP_VAE, bits(7), steps=1, **{**QUICK, **options})

"""The grid: one budget and one order of the data for all, refusals as rows, and going on where it stopped."""

import json
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from torch import nn

import ppvae
from ppvae.comparison import Comparison, cells, compare, grid
from ppvae.comparison.cells import METRICS, Cell
from ppvae.comparison.folders import CELLS, GRID, LABORATORY, Folder, unlisted
from ppvae.comparison.plan import Plan, named
from ppvae.data import Dataset, Split
from ppvae.engine import EagerStep
from ppvae.errors import PairError, RunError, UsageError
from ppvae.estimators import ELBO, IWAE, Objective
from ppvae.pair import Pair
from ppvae.runs import strict_json
from tests.comparison.small import QUICK, numbers, quick, timeless
from tests.toys import BernoulliGuide, bernoulli_model


def bit_data(rows: int = 40) -> Dataset:
    x = torch.rand(rows, generator=torch.Generator().manual_seed(0)).round().float()
    return Dataset(name="bits", train=Split({"x": x}), test=Split({"x": x[:9]}))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures take a second each, and are looked at elsewhere."""
    monkeypatch.setattr("ppvae.comparison.figures.figures", lambda comparison: {})


BITS = Pair(model=bernoulli_model, guide=BernoulliGuide, data=None, discrete={"z": "score"}, name="bits")


class Broken(ELBO):
    """Its loss is no number from the third step on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def objective(self, terms, knobs):
        assert isinstance(self.calls, torch.Tensor)
        self.calls += 1
        found = super().objective(terms, knobs)
        return Objective(
            found.bound, {"all": found.losses["all"] * torch.where(self.calls > 2, math.nan, 1.0)}
        )


# ---- one budget, one start, one order


def test_all_cells_have_the_same_budget_and_a_seeds_cells_the_same_start():
    found = quick(["elbo", "iwae:k=3", "analytic_kl"])
    assert [(c.estimator, c.seed) for c in found.cells] == [
        (name, seed) for seed in (0, 1) for name in ("elbo", "iwae:k=3", "analytic_kl")
    ]
    assert {cell.status for cell in found.cells} == {"done"}
    assert {cell.steps for cell in found.cells} == {5}
    assert [[p["step"] for p in cell.curve] for cell in found.cells] == [[0, 1, 5]] * 6
    starts = {seed: {c.initial for c in found.cells if c.seed == seed} for seed in (0, 1)}
    assert all(len(start) == 1 for start in starts.values())
    assert starts[0] != starts[1]
    first = {seed: {c.curve[0]["elbo"] for c in found.cells if c.seed == seed} for seed in (0, 1)}
    assert all(len(values) == 1 for values in first.values())


def test_the_estimators_of_a_seed_see_the_same_data_in_the_same_order(monkeypatch):
    seen: list[torch.Tensor] = []
    real = EagerStep.__call__

    def watched(self, given, *args):
        seen.append(self.read(given)["x"].clone())
        return real(self, given, *args)

    monkeypatch.setattr(EagerStep, "__call__", watched)
    quick(["elbo", "iwae:k=3"], repeats=0)
    cells = [torch.stack(seen[i * 5 : (i + 1) * 5]) for i in range(4)]
    assert torch.equal(cells[0], cells[1])
    assert torch.equal(cells[2], cells[3])
    assert not torch.equal(cells[0], cells[2])


def test_a_cell_is_what_fit_trains():
    cell = quick(["iwae:k=3"], seeds=1, seed=4, repeats=0, train={"clip_norm": 1.0}).cells[0]
    trained = ppvae.fit("ppca_mean_field", numbers(), "iwae:k=3", steps=5, batch=20, seed=4, clip_norm=1.0,
                        progress=False, check=False)  # fmt: skip
    wanted = trained.evaluate(k=3, n=5)
    for name in ("elbo", "elbo_stderr", "log_likelihood", "rate", "distortion"):
        assert cell.final[name] == wanted[name]


def test_the_curve_ends_where_the_final_bound_is_taken():
    """On the whole test set with the same draws they would be equal; here the curve is on 7 of 12 data."""
    found = quick(["elbo"], seeds=1, repeats=0, curve_n=10**6)
    cell = found.cells[0]
    assert cell.final["n_elbo"] == 12
    assert cell.curve[-1]["elbo"] == pytest.approx(cell.final["elbo"], abs=3.0)
    assert cell.curve[0]["elbo"] != cell.curve[-1]["elbo"]


def test_no_importance_samples_where_none_are_wanted():
    cell = quick(["elbo"], seeds=1, repeats=0, curve_k=0, eval_k=0).cells[0]
    assert "log_likelihood" not in cell.curve[-1]
    assert cell.final["log_likelihood"] is None
    assert math.isfinite(cell.final["elbo"])
    assert "rate" in cell.final


def test_the_training_data_may_be_a_sample():
    found = quick(["elbo"], seeds=1, repeats=0, train_n=30, batch=10, steps=None, epochs=2)
    assert found.cells[0].steps == 6
    assert found.data["sizes"] == {"train": 30, "valid": 12, "test": 12}


def test_a_budget_in_seconds_ends_a_cell():
    found = quick(["elbo"], seeds=1, repeats=0, steps=None, budget_seconds=1e-6)
    cell = found.cells[0]
    assert cell.status == "done"
    assert cell.steps == 10
    assert cell.seconds > 0


def test_the_callers_random_state_is_left_alone():
    state = torch.get_rng_state()
    quick(["elbo"], seeds=1)
    assert torch.equal(state, torch.get_rng_state())


# ---- refusals


def test_what_an_estimator_refuses_is_its_row():
    found = quick(["elbo", "iwae:k=2"], bit_data(), BITS)
    by_name = {name: found.of(name) for name in found.estimators}
    assert [c.status for c in by_name["elbo"]] == ["done", "done"]
    assert [c.status for c in by_name["iwae:k=2"]] == ["refused", "refused"]
    assert "needs a reparameterized guide" in found.refusals()["iwae:k=2"]
    assert found.summary("iwae:k=2")["elbo"]["mean"] is None
    assert found.difference("iwae:k=2") is None
    assert found.laboratory is not None
    assert found.laboratory.probes[1].refused is not None


def test_the_first_may_be_refused_and_the_laboratory_takes_the_next():
    found = quick(["iwae:k=2", "elbo"], bit_data(), BITS, seeds=1)
    assert found.laboratory is not None
    assert found.laboratory.at == "those after 2 steps of elbo (seed 0)"


def test_where_all_are_refused_the_initial_parameters_serve():
    found = quick(["iwae:k=2"], bit_data(), BITS, seeds=1)
    assert found.laboratory is not None
    assert found.laboratory.at == "the initial ones (seed 0)"
    assert [c.status for c in found.cells] == ["refused"]


def test_a_cell_that_diverges_is_a_row_and_keeps_its_curve():
    found = quick({"elbo": "elbo", "broken": Broken()}, repeats=0, steps=6)
    cells = found.of("broken")
    assert [c.status for c in cells] == ["diverged", "diverged"]
    assert all("the loss became nan" in cell.line for cell in cells)
    assert {cell.steps for cell in cells} == {3}
    assert all(
        math.isfinite(cell.curve[1]["elbo"] or 0.0) for cell in cells
    )  # each begins with one of its own
    assert [[p["step"] for p in cell.curve][:2] for cell in cells] == [[0, 2], [0, 2]]
    assert [c.status for c in found.of("elbo")] == ["done", "done"]


class Raising(ELBO):
    """Raises in the second step."""

    def __init__(self, error: type[BaseException] = ValueError):
        super().__init__()
        self.calls, self.error = 0, error

    def objective(self, terms, knobs):
        self.calls += 1
        if self.calls > 1:
            raise self.error("I am\nbroken")
        return super().objective(terms, knobs)


@pytest.mark.parametrize("repeats", [0, 8])
def test_what_an_estimator_raises_is_its_row_and_the_others_go_on(repeats, tmp_path, monkeypatch):
    mine = {"broken": Raising(), "elbo": "elbo"}
    found = quick(mine, repeats=repeats, save=True, out=tmp_path)
    assert [c.status for c in found.of("broken")] == ["failed", "failed"]
    assert [c.steps for c in found.of("broken")] == [1, 1]
    for line in [c.line for c in found.of("broken")]:
        assert line.startswith(f"{__file__}:")
        assert line.endswith(": ValueError: I am")
    assert [c.status for c in found.of("elbo")] == ["done", "done"]
    in_the_laboratory = ["broken in the laboratory"] if repeats else []
    assert found.failed() == ["broken, seed 0", "broken, seed 1", *in_the_laboratory]
    assert not found.is_empty()
    if found.laboratory is not None:
        assert found.laboratory.at == "those after 2 steps of elbo (seed 0)"
        assert found.laboratory.probes[0].failed is not None
        assert found.laboratory.probes[1].groups
        assert found.folder is not None
        assert not (found.folder / LABORATORY).exists()
    count = stopped(monkeypatch, 99)
    again = compare("ppca_mean_field", mine, numbers(), resume=found.folder)
    assert len(count) == 2  # what failed is tried again; so is the laboratory
    assert timeless(again.to_dict())["cells"] == timeless(found.to_dict())["cells"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_stops_the_grid(error):
    with pytest.raises(error):
        quick({"broken": Raising(error), "elbo": "elbo"}, repeats=0)


def test_what_raises_when_it_is_evaluated_is_a_row_too(monkeypatch):
    def evaluated(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("ppvae.comparison.cells.evaluate", evaluated)
    (cell,) = quick(["elbo"], seeds=1, repeats=0).cells
    assert cell.status == "failed"
    assert cell.line.endswith(": ZeroDivisionError")
    assert cell.steps == 5


def test_the_laboratory_does_not_look_where_parameters_are_no_numbers():
    class Jumping(ELBO):
        """Its loss is a number, whose gradient is none."""

        def objective(self, terms, knobs):
            found = super().objective(terms, knobs)
            loss = found.losses["all"]
            loss.register_hook(lambda gradient: gradient * math.nan)
            return Objective(found.bound, {"all": 1.0 * loss})

    found = quick({"jumping": Jumping(), "elbo": "elbo"}, probe=True, probe_steps=1)
    assert found.laboratory is not None
    assert found.laboratory.at == "those after 1 step of elbo (seed 0)"


def test_a_disk_that_is_full_is_no_divergence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RunError("disk full")

    for owner, name in ((Folder, "keep_cell"), (cells, "run_loop")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(RunError, match="disk full"):
                quick(["elbo"], save=True, out=tmp_path, repeats=0)


def test_a_broken_pair_is_refused_before_anything_is_trained(monkeypatch):
    def model(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("zz", dist.Normal(self.loc, 1.0))

    monkeypatch.setattr(grid, "train_cell", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(PairError):
        quick(["elbo"], bit_data(), Pair(model=model, guide=Guide, data=None))


def test_a_warm_up_that_an_estimator_lacks_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(grid, "train_cell", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(
        UsageError, match="renyi has no beta that kl_warmup could raise: leave one of them out"
    ):
        quick(["elbo", "renyi"], train={"kl_warmup": 3})


def test_a_pair_without_data_can_only_be_probed():
    from tests.test_terms import SCHOOLS, SchoolsGuide, schools

    del SCHOOLS
    pair = Pair(model=schools, guide=SchoolsGuide, data=None, observed=())
    with pytest.raises(UsageError, match="has no data to test on: look at its gradients alone, --probe"):
        compare(pair, ["elbo"], **QUICK)
    found = compare(pair, ["elbo"], **{**QUICK, "probe": True})
    assert found.cells == []
    assert found.laboratory is not None
    assert found.laboratory.probes[0].refused is None


def test_only_the_laboratory():
    found = quick(["elbo", "iwae:k=3"], probe=True)
    assert found.cells == []
    assert found.laboratory is not None
    assert [p.estimator for p in found.laboratory.probes] == ["elbo", "iwae:k=3"]
    assert found.to_dict()["summary"] == []


def test_the_laboratory_looks_where_the_first_one_led():
    first = quick(["elbo", "iwae:k=3"], probe=True)
    again = quick(["elbo", "analytic_kl"], probe=True)
    initial = quick(["elbo"], probe=True, probe_steps=0)
    bounds = [c.laboratory.probes[0].bound for c in (first, again, initial) if c.laboratory]
    assert bounds[0] == bounds[1] != bounds[2]
    assert initial.laboratory is not None
    assert initial.laboratory.at == "the initial ones (seed 0)"


# ---- names


def test_estimators_by_name_instance_and_mapping():
    assert list(named(["elbo", "iwae:particles=3"])) == ["elbo", "iwae:k=3"]
    assert list(named("elbo,iwae:k=3,beta=1")) == ["elbo", "iwae:k=3,beta=1"]
    assert list(named([ELBO(), IWAE(7)])) == ["elbo", "iwae:k=7"]
    own = named({"mine": Broken(), "five": "iwae:k=5"})
    assert list(own) == ["mine", "five"]
    assert isinstance(own["five"], IWAE)


def test_names_of_ones_own_are_given_again(tmp_path, monkeypatch):
    mine = {"elbo": "elbo", "five draws": "iwae:k=5"}
    first = quick(mine, save=True, out=tmp_path, seeds=1, repeats=0)
    assert first.estimators == ["elbo", "five draws"]
    with pytest.raises(UsageError, match="an estimator of your own, five draws: list it again"):
        compare("ppca_mean_field", data=numbers(), resume=first.folder)
    monkeypatch.setattr(grid, "train_cell", lambda *a, **k: pytest.fail("trained again"))
    found = compare("ppca_mean_field", mine, numbers(), resume=first.folder)
    assert [cell.to_dict() for cell in found.cells] == [cell.to_dict() for cell in first.cells]
    with pytest.raises(UsageError, match="'a, b' is no name for an estimator: leave commas and = out of it"):
        named({"a, b": "elbo"})


@pytest.mark.parametrize("twice", [["iwae", "iwae:k=5"], ["iwae:k=3", IWAE(3)], ["elbo", "elbo"]])
def test_one_listed_twice_in_two_spellings(twice):
    with pytest.raises(UsageError, match="is listed twice"):
        named(twice)


def test_an_estimator_of_ones_own_must_be_given_again():
    with pytest.raises(UsageError, match=r"an estimator of your own, mine.py:Mine: list it again"):
        named(["elbo", "own:mine.py:Mine"])


# ---- going on


class Stop(BaseException):
    pass


def stopped(monkeypatch, after: int):
    """Stop like a signal would, in the middle of the cell after so many."""
    real, count = grid.train_cell, []

    def counted(*args: Any, **options: Any):
        if len(count) == after:
            raise Stop
        count.append(1)
        return real(*args, **options)

    monkeypatch.setattr(grid, "train_cell", counted)
    return count


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_stopped_grid_goes_on_where_it_was(tmp_path, monkeypatch, after):
    """Equal to the uninterrupted one in every number but seconds, and no cell is trained twice."""
    whole = quick(["elbo", "iwae:k=3"])
    with monkeypatch.context() as patch:
        stopped(patch, after)
        with pytest.raises(Stop):
            quick(["elbo", "iwae:k=3"], save=True, out=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert len(list((folder / CELLS).iterdir())) == after
    assert not (folder / "compare.json").exists()
    count = stopped(monkeypatch, 99)
    found = compare("ppca_mean_field", None, numbers(), resume="latest", out=tmp_path)
    assert len(count) == 4 - after
    assert timeless(found.to_dict())["cells"] == timeless(whole.to_dict())["cells"]
    assert timeless(found.to_dict())["laboratory"] == timeless(whole.to_dict())["laboratory"]
    assert found.folder == folder


def test_what_is_finished_is_not_done_again(tmp_path, monkeypatch):
    first = quick(["elbo"], save=True, out=tmp_path)
    monkeypatch.setattr(grid, "train_cell", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(grid, "probe", lambda *a, **k: pytest.fail("probed again"))
    found = compare("ppca_mean_field", data=numbers(), resume=first.folder)
    assert found.to_dict() == {**first.to_dict(), "environment": found.environment}


def test_more_estimators_and_seeds_are_more_cells(tmp_path, monkeypatch):
    first = quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0)
    count = stopped(monkeypatch, 99)
    found = compare("ppca_mean_field", ["elbo", "iwae:k=3"], numbers(), resume=first.folder, seeds=2)
    assert len(count) == 3
    assert [c.to_dict() for c in found.of("elbo")][:1] == [c.to_dict() for c in first.cells]


def test_a_grid_that_has_changed_is_refused_or_begun_anew(tmp_path, monkeypatch):
    first = quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0)
    again = {"data": numbers(), "resume": first.folder}
    with pytest.raises(UsageError, match=r"has steps=5, not 6: leave the option out to go on, or .* --fresh"):
        compare("ppca_mean_field", **again, steps=6)
    with pytest.raises(UsageError, match=r"has data_hash="):
        compare("ppca_mean_field", data=numbers(seed=1), resume=first.folder)
    with pytest.raises(UsageError, match=r"has pair='ppca_mean_field', not 'ppca'"):
        compare("ppca", **again)
    count = stopped(monkeypatch, 99)
    found = compare("ppca_mean_field", **again, steps=6, fresh=True)
    assert len(count) == 1
    assert found.cells[0].steps == 6
    assert len(list((found.folder / CELLS).iterdir())) == 1  # type: ignore[operator]


def test_a_cell_of_other_settings_is_never_mixed_in(tmp_path, monkeypatch):
    first = quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0)
    assert first.folder is not None
    (file,) = (first.folder / CELLS).iterdir()
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({**saved, "settings": "other"}))
    count = stopped(monkeypatch, 99)
    compare("ppca_mean_field", data=numbers(), resume=first.folder)
    assert len(count) == 1


def test_a_damaged_cell_is_trained_again(tmp_path, monkeypatch):
    first = quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0)
    assert first.folder is not None
    (file,) = (first.folder / CELLS).iterdir()
    file.write_text(file.read_text()[:50])
    count = stopped(monkeypatch, 99)
    found = compare("ppca_mean_field", data=numbers(), resume=first.folder)
    assert len(count) == 1
    assert timeless(found.to_dict())["cells"] == timeless(first.to_dict())["cells"]


@pytest.mark.parametrize("other", [{"bogus": 1}, {"estimator": "elbo"}, ["elbo"], None, "elbo"])
def test_a_cell_of_another_form_is_trained_again(other, tmp_path, monkeypatch):
    first = quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0)
    assert first.folder is not None
    (file,) = (first.folder / CELLS).iterdir()
    saved = json.loads(file.read_text())
    other = {**saved["cell"], **other} if isinstance(other, dict) and "bogus" in other else other
    file.write_text(json.dumps({**saved, "cell": other}))
    count = stopped(monkeypatch, 99)
    found = compare("ppca_mean_field", data=numbers(), resume=first.folder)
    assert len(count) == 1
    assert timeless(found.to_dict())["cells"] == timeless(first.to_dict())["cells"]


@pytest.mark.parametrize("other", [{}, [], "elbo", {"probes": ["elbo"]}, {"probes": [], "bogus": 1}])
def test_a_laboratory_of_another_form_is_done_again(other, tmp_path):
    first = quick(["elbo"], save=True, out=tmp_path, probe=True)
    assert first.folder is not None
    file = first.folder / LABORATORY
    file.write_text(json.dumps({**json.loads(file.read_text()), "laboratory": other}))
    found = compare("ppca_mean_field", data=numbers(), resume=first.folder)
    assert timeless(found.to_dict())["laboratory"] == timeless(first.to_dict())["laboratory"]


def test_a_folder_that_names_no_pair(tmp_path):
    first = quick(["elbo"], save=True, out=tmp_path, probe=True)
    assert first.folder is not None
    (first.folder / GRID).write_text("foo: 3")
    with pytest.raises(RunError, match=r"grid.yaml names no pair: begin the comparison again"):
        compare(data=numbers(), resume=first.folder)


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    import subprocess
    import sys

    first = quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0)
    code = (
        "import sys, time; from pathlib import Path; from ppvae.comparison.folders import Folder;"
        f"Folder(Path({str(first.folder)!r})); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="is in use by process"):
            compare("ppca_mean_field", data=numbers(), resume=first.folder)
    finally:
        other.kill()
        other.wait()


def test_the_folder_says_what_was_asked_for(tmp_path):
    found = quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0, sizes={"latent": 2})
    assert found.folder is not None
    asked = yaml.safe_load((found.folder / GRID).read_text())
    assert asked["pair"] == "ppca_mean_field"
    assert asked["estimators"] == ["elbo"]
    assert asked["sizes"] == {"latent": 2}
    assert asked["data_in_memory"]
    assert found.folder.name.startswith("compare-ppca_mean_field-")


def test_data_from_python_must_be_given_again(tmp_path):
    first = quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0)
    with pytest.raises(UsageError, match="on data passed from Python"):
        compare("ppca_mean_field", resume=first.folder)


def test_a_pair_of_ones_own_must_be_given_again(tmp_path):
    first = quick(["elbo"], bit_data(), BITS, save=True, out=tmp_path, seeds=1, repeats=0)
    with pytest.raises(UsageError, match="of your own pair bits: give it again"):
        compare(data=bit_data(), resume=first.folder)


def test_no_folder_to_go_on_with(tmp_path):
    with pytest.raises(RunError, match=r"there is no comparison latest in .*: begin one without --resume"):
        compare("ppca_mean_field", resume="latest", out=tmp_path)
    quick(["elbo"], save=True, out=tmp_path, seeds=1, repeats=0)
    with pytest.raises(RunError, match=r"there is no comparison compare-x in .*ppca_mean_field"):
        compare("ppca_mean_field", resume="compare-x", out=tmp_path)


def test_an_own_estimator_that_has_changed_is_trained_again(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    text = "from ppvae.estimators import ELBO\n\n\nclass Mine(ELBO):\n    pass\n"
    file.write_text(text)
    first = quick([f"{file}:Mine"], save=True, out=tmp_path / "runs", seeds=1, repeats=0)
    assert first.folder is not None
    assert yaml.safe_load((first.folder / GRID).read_text())["estimators"] == [f"own:{file}:Mine"]
    count = stopped(monkeypatch, 99)
    again = {"data": numbers(), "resume": first.folder}
    with pytest.raises(UsageError, match="list it again"):
        compare("ppca_mean_field", **again)
    compare("ppca_mean_field", [f"{file}:Mine"], **again)
    assert len(count) == 0
    file.write_text(text + "\n# changed\n")
    compare("ppca_mean_field", [f"{file}:Mine"], **again)
    assert len(count) == 1


def test_trained_parameters_may_be_kept(tmp_path):
    found = compare(
        "ppca_mean_field", ["elbo"], **{**QUICK, "batch": 64, "keep": True}, seed=3, save=True, out=tmp_path
    )
    assert found.folder is not None
    runs = sorted(path for path in (found.folder / "runs").iterdir() if not path.is_symlink())
    assert len(runs) == 2
    finals = {cell.seed: cell.final["elbo"] for cell in found.cells}
    for run in runs:
        trained = ppvae.load(run)
        assert trained.evaluate(k=3, n=5)["elbo"] == finals.pop(trained.config.seed)
    assert not finals


def test_what_a_folder_holds_beside_what_is_listed(tmp_path):
    first = quick(["elbo", "stl"], save=True, out=tmp_path, seeds=2, repeats=0)
    assert first.folder is not None
    assert unlisted(first.folder, first.cells) == []
    found = compare("ppca_mean_field", ["elbo"], numbers(), resume=first.folder, seeds=1)
    assert [cell.name for cell in found.cells] == ["elbo, seed 0"]
    assert unlisted(first.folder, found.cells) == ["elbo, seed 1", "stl, seed 0", "stl, seed 1"]


# ---- what comes back


def test_a_plan_holds_what_was_understood():
    plan = Plan.make("ppca_mean_field", ["elbo"], numbers(), ppvae.comparison.CompareConfig(steps=3))
    assert plan.training.steps == 3
    assert plan.training.lr == 1e-2  # the pair's own
    assert plan.dataset is not None


def test_seeds_are_paired():
    found = quick(["elbo", "iwae:k=3"])
    for metric in METRICS:
        own, base = found.finals("iwae:k=3", metric), found.finals("elbo", metric)
        difference = found.difference("iwae:k=3", metric)
        assert difference is not None
        assert difference.n == 2
        assert difference.mean == pytest.approx(sum(own[s] - base[s] for s in (0, 1)) / 2, rel=1e-12)


def test_what_comes_back_survives_json(tmp_path):
    found = quick({"elbo": "elbo", "iwae": "iwae:k=3", "broken": Broken()}, save=True, out=tmp_path, steps=6)
    assert found.folder is not None
    text = (found.folder / "compare.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    read = Comparison.read(found.folder)
    assert strict_json.dumps(read.to_dict(), "read") == strict_json.dumps(found.to_dict(), "found")
    assert [type(cell) for cell in read.cells] == [Cell] * 6
    assert read.laboratory is not None
    assert read.laboratory.probes[0] == found.laboratory.probes[0]  # type: ignore[union-attr]

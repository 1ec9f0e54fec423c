"""`ppvae compare` on the command line."""

import os
import subprocess
import sys

import pytest

from ppvae.cli import main

QUICK = [
    "--seeds", "1", "--steps", "3", "--batch", "64", "--train-n", "100", "--curve-points", "1", "--curve-n",
    "9", "--curve-k", "0", "--eval-k", "2", "--eval-n", "9", "--repeats", "8", "--probe-steps", "1",
    "--threads", "1",
]  # fmt: skip


def folder_of(out):
    (found,) = out.glob("compare-*")
    return found


def test_a_table_and_a_folder(tmp_path, capfd):
    words = ["--estimators", "elbo,iwae:k=2,beta=0.5", "--out", str(tmp_path / "runs")]
    assert main(["compare", "ppca_mean_field", *QUICK, *words]) == 0
    said = capfd.readouterr()
    assert "after training, 1 seed" in said.out
    assert "gradient of the guide" in said.out
    folder = folder_of(tmp_path / "runs")
    written = [
        line.removeprefix("written: ") for line in said.out.splitlines() if line.startswith("written: ")
    ]
    assert written[-2:] == [str(folder / "compare.json"), str(folder / "report.html")]
    assert all(os.path.isfile(path) for path in written)
    lines = said.err.splitlines()
    assert len(lines) == 2  # no terminal: one line a cell
    assert lines[0].startswith("1/2 elbo, seed 0: 3 steps in ")
    assert lines[1].startswith("2/2 iwae:k=2,beta=0.5, seed 0: 3 steps in ")


def test_going_on_from_the_command_line(tmp_path, capfd):
    out = ["--out", str(tmp_path)]
    assert main(["compare", "ppca_mean_field", *QUICK, "--estimators", "elbo", *out]) == 0
    capfd.readouterr()
    assert main(["compare", "--resume", "latest", *out, "--estimators", "elbo", "stl"]) == 0
    assert [line[:9] for line in capfd.readouterr().err.splitlines()] == ["2/2 stl, "]
    assert main(["compare", "--resume", str(folder_of(tmp_path)), "--lr", "0.5"]) == 2
    assert "has lr=None, not 0.5: leave the option out to go on" in capfd.readouterr().err
    assert main(["compare", "--resume", "latest", *out, "--lr", "0.5", "--fresh"]) == 0
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_a_schedule_names_the_pair_and_flags_win(tmp_path, capfd):
    file = tmp_path / "s.yaml"
    file.write_text(
        "pair: ppca_mean_field\nestimators: [elbo, 'stl']\nseeds: 1\nsteps: 3\nbatch: 64\ncurve_points: 1\n"
        "curve_k: 0\neval_k: 2\neval_n: 9\nrepeats: 0\n"
    )
    assert main(["compare", "--config", str(file), "--steps", "2", "--out", str(tmp_path)]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [
        "1/2 elbo, seed 0: 2 steps",
        "2/2 stl, seed 0: 2 steps",
    ]


def test_only_gradients(tmp_path, capfd):
    words = [*QUICK, "--estimators", "elbo", "stl", "--probe", "--out", str(tmp_path), "--no-progress"]
    assert main(["compare", "ppca_mean_field", *words]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "after training" not in said.out
    assert "gradient of the model" in said.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["compare"], "no pair to compare estimators on: give one, such as vae"),
        (["compare", "ppca"], "no estimators to compare: list some"),
        (["compare", "ppca", "--estimators", "elboo"], "no estimator 'elboo', did you mean 'elbo'"),
        (["compare", "ppca", "--estimators", "k=5"], "is an option without its estimator"),
        (["compare", "ppcaa", "--estimators", "elbo"], "no pair 'ppcaa'"),
        (
            ["compare", "ppca", "--estimatrs", "elbo"],
            "has no option --estimatrs, did you mean '--estimators'",
        ),
        (["compare", "ppca", "--config", "none.yaml"], "no file none.yaml"),
        (
            ["compare", "ppca", "--resume", "latest"],
            "no comparison latest in runs: begin one without --resume",
        ),
        (["compare", "ppca", "--estimators", "elbo", "--train-n", "100000"], "is more than the"),
    ],
)
def test_errors_are_one_line_that_says_the_fix(words, line, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) != 0
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert line in said[0]
    assert list(tmp_path.iterdir()) == []


def test_help_answers_without_torch():
    code = (
        "import sys; from ppvae.cli import main; main(['compare', '--help']);"
        "print([n for n in ('torch', 'pyro') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "--estimators" in done.stdout
    assert "--budget-seconds" in done.stdout


BROKEN = """from pathlib import Path

from ppvae.estimators import ELBO


class Broken(ELBO):
    def objective(self, terms, knobs):
        if Path(__file__).with_name("todo").exists():
            raise ValueError("not yet")
        return super().objective(terms, knobs)
"""


def test_what_fails_is_told_and_the_status_is_one(tmp_path, capfd):
    file = tmp_path / "own.py"
    file.write_text(BROKEN)
    (tmp_path / "todo").touch()
    words = ["--estimators", f"{file}:Broken", "elbo", "--out", str(tmp_path / "runs")]
    assert main(["compare", "ppca_mean_field", *QUICK, *words]) == 1
    said = capfd.readouterr()
    lines = said.err.splitlines()
    assert lines[0] == f"1/2 {file}:Broken, seed 0: failed: {file}:9: ValueError: not yet"
    assert lines[1].startswith("2/2 elbo, seed 0: 3 steps in ")
    assert len(lines) == 3
    names = f"{file}:Broken, seed 0; {file}:Broken in the laboratory"
    assert lines[2].startswith(f"ppvae: failed: {names}; see the lines above, mend them, and go on with: ")
    assert lines[2].endswith(f"ppvae compare --resume {folder_of(tmp_path / 'runs')}")
    assert said.out.splitlines()[-1].startswith("written: ")
    (tmp_path / "todo").unlink()
    again = ["compare", "--resume", "latest", *words]
    assert main(again) == 0
    assert [line[:4] for line in capfd.readouterr().err.splitlines()] == ["1/2 "]


def test_where_no_estimator_comes_to_an_end_the_status_is_one(tmp_path, capfd):
    words = ["--estimators", "arm", "--repeats", "0", "--out", str(tmp_path)]
    assert main(["compare", "ppca_mean_field", *QUICK, *words]) == 1
    said = capfd.readouterr()
    assert said.err.splitlines()[-1] == "ppvae: no estimator came to an end: see the lines above"
    assert "refused: " in said.out
    assert "standard error" not in said.out
    assert list((folder_of(tmp_path) / "figures").glob("*")) == []
    words = ["--estimators", "arm", "elbo", "--repeats", "0", "--out", str(tmp_path / "other")]
    assert main(["compare", "ppca_mean_field", *QUICK, *words]) == 0  # what is refused is no failure


def test_what_is_not_listed_again_is_kept_and_named(tmp_path, capfd):
    words = [*QUICK, "--repeats", "0", "--out", str(tmp_path)]
    assert main(["compare", "ppca_mean_field", "--estimators", "elbo", "stl", *words]) == 0
    assert "kept in the folder" not in capfd.readouterr().out
    assert main(["compare", "--resume", "latest", "--estimators", "elbo", "--out", str(tmp_path)]) == 0
    line = "kept in the folder, not shown: stl, seed 0: list them to see them"
    assert line in capfd.readouterr().out.splitlines()


def test_an_interrupt_says_how_to_go_on(tmp_path, capfd, monkeypatch):
    from ppvae.comparison import grid

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(grid, "train_cell", interrupted)
    assert main(["compare", "ppca_mean_field", *QUICK, "--estimators", "elbo", "--out", str(tmp_path)]) == 130
    said = capfd.readouterr().err.splitlines()
    assert said == [f"go on with: ppvae compare --resume {folder_of(tmp_path)}", "ppvae: interrupted"]

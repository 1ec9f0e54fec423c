"""The command line: what it writes, its exit status, and one clear line for whatever goes wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from ppvae import TrainConfig, cli, commands, registry
from ppvae.cli import COMMANDS, main, read_recipe, values
from ppvae.errors import UsageError
from ppvae.estimators import ESTIMATORS

ROOT = Path(__file__).parent.parent
QUICK = ["--steps", "5", "--batch", "50", "--eval-k", "10", "--eval-n", "20", "--no-check"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test in a folder of its own, where `runs` is made; tracebacks only where they are asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PPVAE_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def said(capsys, *argv):
    """(exit status, stdout, stderr) of a command, in this process."""
    status = main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return status, captured.out, captured.err


def refused(capsys, *argv):
    """(exit status, the line): all that an error may say is one line on stderr."""
    status, out, err = said(capsys, *argv)
    assert out == ""
    assert err.startswith("ppvae: ")
    assert err.count("\n") == 1, err
    assert status in (1, 2)
    return status, err.removeprefix("ppvae: ").strip()


def apart(*argv, **options):
    """In a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ppvae", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, **options)


def only_run() -> Path:
    (found,) = [path for path in Path("runs").iterdir() if not path.is_symlink()]
    return found


# ---- help


def test_help_of_every_command_imports_nothing_heavy():
    """In one process: torch, arviz and matplotlib take seconds, and --help needs none of them."""
    code = """
import sys
from ppvae.cli import COMMANDS, main
for argv in ([], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
    assert main(argv) == 0, argv
heavy = {"torch", "pyro", "arviz", "matplotlib", "torchvision", "pandas", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    status, out, err = said(capsys, command, "--help")
    assert (status, err) == (0, "")
    assert f"ppvae {command}" in out
    assert len(out.splitlines()) > 5


def test_the_flags_of_train_are_the_options_of_the_config(capsys):
    _, out, _ = said(capsys, "train", "--help")
    for name in TrainConfig().to_dict():
        assert f"--{name.replace('_', '-')}" in out


def test_version(capsys):
    assert said(capsys, "--version")[:2] == (0, "ppvae 0.1.0\n")


# ---- what the commands do


def test_list(capsys):
    status, out, _ = said(capsys, "list")
    assert status == 0
    for name in [*registry.names(), *ESTIMATORS, "digits", "mnist"]:
        assert name in out
    assert "Tipping & Bishop (1999)" in out


def test_list_gives_a_pair_few_lines_where_there_is_little_room(capsys, monkeypatch):
    monkeypatch.setattr(commands.console, "width", 80)
    _, out, _ = said(capsys, "list")
    assert "Tipping" not in out
    assert len(out.splitlines()) < 45


def test_check_says_0_or_1(capsys, tmp_path):
    status, out, err = said(capsys, "check", "ppca")
    assert (status, err) == (0, "")
    assert "fit each other" in out
    (tmp_path / "own.py").write_text(OWN.replace('"z", dist.Normal(loc', '"w", dist.Normal(loc'))
    status, out, _ = said(capsys, "check", "own.py:PAIR", "--data", "ppca_toy")
    assert status == 1
    assert "own.py:" in out
    assert "fix:" in out


def test_check_of_a_file_that_does_not_run(capsys, tmp_path):
    (tmp_path / "own.py").write_text("import math\n\nx = math.nothing\n")
    status, out, _ = said(capsys, "check", "own.py:PAIR")
    assert status == 1
    assert "own.py:3" in out
    assert "AttributeError" in out


def test_train_writes_the_whole_run_folder(capsys):
    status, out, err = said(capsys, "train", "ppca", *QUICK)
    assert (status, err) == (0, "")
    run = only_run()
    assert os.readlink("runs/latest") == run.name
    assert run.name.startswith("ppca-ppca_toy-elbo-")
    for name in ("config.yaml", "env.json", "metrics.jsonl", "evaluation.json", "log.txt"):
        assert (run / name).is_file()
    assert {path.name for path in (run / "figures").iterdir()} == {
        "samples.png",
        "reconstructions.png",
        "curves.png",
    }
    assert all(path.stat().st_size > 1000 for path in (run / "figures").iterdir())
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000005"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["pair"], config["steps"], config["batch"]) == ("ppca", 5, 50)
    assert config["lr"] == registry.find("ppca").train["lr"]  # resolved: the pair's own and the defaults, too
    assert config["schedule"] == TrainConfig().schedule
    results = json.loads((run / "evaluation.json").read_text())
    assert (results["k"], results["n"]) == (10, 20)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["step"] == 5
    assert "K = 10, 20 data" in out
    assert f"written: {Path('runs') / run.name / 'evaluation.json'}" in out


def test_a_training_says_which_engine_it_took_and_why(capsys):
    status, out, _ = said(capsys, "train", "ppca", *QUICK, "--steps", "30", "--engine", "auto")
    (line,) = (line for line in out.splitlines() if line.startswith("engine: "))
    assert status == 0
    assert re.fullmatch(r"engine: eager, 10 steps to go take about \d+ s, too few to compile for", line)
    assert line in (only_run() / "log.txt").read_text()
    assert "engine: " not in said(capsys, "train", "ppca", *QUICK, "--steps", "30", "--engine", "eager")[1]


def test_pictures_are_grids(capsys, tmp_path):
    x = np.random.default_rng(0).integers(0, 2, (60, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=x)
    sizes = ["--sizes", "latent=2", "hidden=[8]"]
    assert said(capsys, "train", "vae", "--data", "own.npz", *sizes, *QUICK)[0] == 0
    config = yaml.safe_load((only_run() / "config.yaml").read_text())
    assert config["sizes"] == {"latent": 2, "hidden": [8]}
    from PIL import Image

    for name in ("samples", "reconstructions"):
        assert max(Image.open(only_run() / "figures" / f"{name}.png").size) > 300


def test_evaluate_and_sample_latest(capsys):
    said(capsys, "train", "ppca", *QUICK, "--eval-k", "0")
    run = only_run()
    assert not (run / "evaluation.json").exists()
    status, out, _ = said(capsys, "evaluate", "latest", "--k", "7", "--n", "9", "--split", "valid")
    assert status == 0
    assert "K = 7, 9 data" in out
    results = json.loads((run / "evaluation.json").read_text())
    assert (results["k"], results["n"], results["split"]) == (7, 9, "valid")
    for path in (run / "figures").iterdir():
        path.unlink()
    status, out, _ = said(capsys, "sample", run.name, "--n", "12")
    assert status == 0
    assert {path.name for path in (run / "figures").iterdir()} >= {"samples.png", "reconstructions.png"}
    assert out.count("written: ") == 3


def test_a_run_elsewhere(capsys, tmp_path):
    assert said(capsys, "train", "ppca", *QUICK, "--out", "else/where")[0] == 0
    assert said(capsys, "evaluate", tmp_path / "else/where/latest", "--k", "2")[0] == 0
    assert said(capsys, "train", "ppca", "--resume", "latest", "--out", "else/where", "--steps", "7")[0] == 0
    assert not Path("runs").exists()


def test_a_pair_without_data_trains_too(capsys):
    place = f"{ROOT / 'tests' / 'proof_pairs' / 'undirected.py'}:SUMMED"
    status, out, _ = said(capsys, "train", place, "--steps", "5", "--no-check")
    assert status == 0
    assert "curves.png" in out
    status, line = refused(capsys, "evaluate", "latest", "--pair", place)
    assert (status, "has no data" in line) == (2, True)


def test_what_cannot_be_drawn_does_not_stop_a_training(capsys):
    """The regression gives no pictures, the sequences have a model of their own; all end with exit 0."""
    for name in ("critic", "regression", "sequence"):
        module = f"{ROOT / 'tests' / 'proof_pairs' / name}.py"
        registry.find(f"{module}:PAIR")
        data = sys.modules[registry.find(f"{module}:PAIR").model.__module__].data(60)  # type: ignore[union-attr]
        np.savez("own.npz", **{key: value.numpy() for key, value in data.items() if key in ("x", "y")})
        status, out, _ = said(capsys, "train", f"{module}:PAIR", "--data", "own.npz", *QUICK)
        assert status == 0, out
        assert "curves.png" in out


def test_new_writes_a_pair_whose_test_passes(capsys, tmp_path):
    status, out, _ = said(capsys, "new", "mine")
    assert status == 0
    assert "ppvae train mine.py:PAIR" in out
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stdout
    status, line = refused(capsys, "new", "mine")
    assert (status, "exists already" in line) == (2, True)


# ---- options and recipes


def test_a_recipe_whose_values_flags_win_over(capsys, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "steps: 3\nbatch: 40\nlr: 1e-2\nsizes: {latent: 2}\neval_k: 0\ncheck: false\n"
    )
    assert said(capsys, "train", "ppca", "--config", "own.yaml", "--batch", "30")[0] == 0
    config = yaml.safe_load((only_run() / "config.yaml").read_text())
    assert {name: config[name] for name in ("steps", "batch", "lr", "sizes")} == {
        "steps": 3,
        "batch": 30,
        "lr": 0.01,
        "sizes": {"latent": 2},
    }


def test_a_runs_own_config_is_a_recipe(capsys):
    said(capsys, "train", "ppca", *QUICK, "--lr", "0.02")
    first = only_run()
    assert read_recipe(first / "config.yaml").lr == 0.02
    assert said(capsys, "train", "ppca", f"--config={first}/config.yaml", "--seed", "1")[0] == 0
    second = Path("runs/latest").resolve()
    one, two = (yaml.safe_load((run / "config.yaml").read_text()) for run in (first, second))
    assert {name for name in one if one[name] != two[name]} == {"seed"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3\n", "no option 'epoch', did you mean 'epochs'?"),
        ("epochs: many\n", "epochs='many' does not fit: give a whole number"),
        ("epochs: -3\n", "epochs=-3 is too small: use at least 1"),
        ("lr: fast\n", "lr='fast' is no number"),
        ("optimizer: adm\n", "no optimizer 'adm', did you mean 'adam'?"),
        ("- a\n- b\n", "holds a list: write one option: value a line"),
        ("a: [1\n", "is no YAML"),
        ("!!python/object/apply:os.system ['echo pwned']\n", "is no YAML"),
        ("\x00", "is no YAML"),
    ],
)
def test_a_recipe_that_does_not_fit_names_the_file_and_the_fix(text, message, capsys, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    status, line = refused(capsys, "train", "ppca", "--config", "own.yaml")
    assert status == 2
    assert line.startswith("own.yaml")
    assert message in line
    assert not Path("runs").exists()


def test_a_recipe_that_is_missing(capsys):
    for argv in (["--config", "gone.yaml"], ["--config=gone.yaml"], ["--config"]):
        status, line = refused(capsys, "train", "ppca", *argv)
        assert status == 2
        assert "--config wants a YAML file of training options" in line


def test_sizes_are_read_as_yaml():
    found = values(("latent=2", "hidden=[3, 4]", "likelihood=gaussian", "scale=1e-3", "deep=true"))
    assert found == {"latent": 2, "hidden": [3, 4], "likelihood": "gaussian", "scale": 1e-3, "deep": True}
    for word in ("latent", "=3", "a b=3", "x=[1"):
        with pytest.raises(UsageError, match="as in latent=20"):
            values((word,))


# ---- going on


def test_resume_goes_on_with_the_options_of_the_run(capsys):
    """Nothing but --resume and how far; the numbers are those of one long run."""
    flags = ["--batch", "50", "--lr", "0.03", "--log-every", "2", "--no-check", "--eval-k", "0"]
    assert said(capsys, "train", "ppca", *flags, "--steps", "5")[0] == 0
    assert said(capsys, "train", "ppca", "--resume", "latest", "--steps", "9")[0] == 0
    resumed = only_run()
    assert said(capsys, "train", "ppca", *flags, "--steps", "9", "--out", "straight")[0] == 0

    def metrics(run):
        lines = map(json.loads, (Path(run) / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert metrics(resumed) == metrics("straight/latest")
    assert sorted(path.name for path in (resumed / "checkpoints").iterdir()) == [
        "step-00000005",
        "step-00000009",
    ]


def test_resume_again_has_nothing_to_do_but_evaluates(capsys):
    said(capsys, "train", "ppca", *QUICK)
    before = (only_run() / "metrics.jsonl").read_text()
    (only_run() / "evaluation.json").unlink()
    assert said(capsys, "train", "ppca", "--resume", "latest")[0] == 0
    assert (only_run() / "metrics.jsonl").read_text() == before
    assert (only_run() / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["ppca_full", "--resume", "latest"],
            "trains the pair ppca, not ppca_full: give the same pair to go on",
        ),
        (
            ["ppca", "--resume", "latest", "--lr", "0.5"],
            "has lr=0.01, not 0.5: leave the option out to go on",
        ),
        (
            ["ppca", "--resume", "latest", "--data", "two_moons"],
            "trained on other data: give the same data to go on",
        ),
        (["ppca", "--resume", "gone"], "there is no run gone"),
    ],
)
def test_what_cannot_be_resumed(argv, message, capsys):
    said(capsys, "train", "ppca", *QUICK)
    status, line = refused(capsys, "train", *argv)
    assert status == 1
    assert message in line


def test_an_evaluation_of_older_parameters_does_not_stay(capsys):
    said(capsys, "train", "ppca", *QUICK)
    assert (only_run() / "evaluation.json").is_file()
    _, out, _ = said(capsys, "train", "ppca", "--resume", "latest", "--steps", "7", "--eval-k", "0")
    assert not (only_run() / "evaluation.json").exists()
    assert "evaluation.json" not in out


# ---- what goes wrong, and how it is said


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        ("trian ppca", 2, "no command 'trian', did you mean 'train'? There are: list, check, train"),
        ("xyzzy", 2, "no command 'xyzzy'. There are: list, check, train"),
        ("train ppcaa", 2, "no pair 'ppcaa', did you mean 'ppca'?"),
        ("check ppcaa", 2, "no pair and no estimator 'ppcaa', did you mean 'ppca'?"),
        (
            "train ppca --epoch 3",
            2,
            "train has no option --epoch, did you mean '--epochs'? See ppvae train --help",
        ),
        ("train ppca --no-chek", 2, "train has no option --no-chek, did you mean '--no-check'?"),
        ("evaluate latest --kk=3", 2, "evaluate has no option --kk"),
        ("evaluate latest --foo 3", 2, "evaluate has no option --foo. See ppvae evaluate --help"),
        (
            "train ppca --estimator gumbel:temperature=0.05",
            2,
            "least=0.1 must lie above 0 and not above temperature=0.05: give temperature=0.05,least=0.05",
        ),
        ("train", 2, "ppvae train needs PAIR: A name"),
        ("train ppca vae", 2, "Unrecognized options: vae; see ppvae train --help"),
        ("train ppca --data digts", 2, "no data set 'digts', did you mean 'digits'?"),
        ("train ppca --data gone.npz", 1, "gone.npz does not exist"),
        ("train ppca --estimator elbbo", 2, "no estimator 'elbbo', did you mean 'elbo'?"),
        ("train ppca --estimator iwae:partcles=3", 2, "no option 'partcles', did you mean 'particles'?"),
        (
            "train ppca --optimizer adm",
            2,
            "--optimizer has no choice 'adm', did you mean 'adam'? There are: adam,",
        ),
        ("train ppca --device tpu", 2, "no device 'tpu': use auto, cpu, cuda or cuda:N"),
        ("train ppca --device cuda:77", 2, "no device 'cuda:77' here"),
        ("train ppca --lr -1", 2, "lr=-1.0 is no positive number: use one such as 1e-3"),
        ("train ppca --lr fast", 2, "--lr: 'fast' is no number"),
        ("train ppca --lr", 2, "--lr needs a value; see ppvae train --help"),
        ("train ppca --batch -5", 2, "batch=-5 is too small: use at least 1"),
        ("train ppca --batch 3.5", 2, "--batch: '3.5' is no whole number"),
        ("train ppca --epochs 0", 2, "epochs=0 is too small: use at least 1"),
        ("train ppca --seed -1", 2, "seed=-1 is too small: use at least 0"),
        ("train ppca --sizes latent", 2, "'latent' is no NAME=VALUE, as in latent=20"),
        (
            "train ppca --sizes latent=abc",
            2,
            "the size latent='abc' is no number: give one, such as latent=3",
        ),
        ("train ppca --sizes latent=-3", 2, "cannot be made with the sizes latent=-3"),
        ("train ppca --sizes laten=3", 2, "ppca has no size 'laten', did you mean 'latent'?"),
        ("train ppca --lr-groups model=abc", 2, "lr_groups: model='abc' is no number"),
        ("train ppca --lr-groups mdl=0.1 --no-check", 2, "lr_groups names 'mdl', but the groups are model"),
        ("train ppca --binarization dynamic", 1, "cannot be binarized"),
        ("train ppca --engine pyro --clip-norm 1", 2, "engine=pyro has no clip_norm: leave it out"),
        ("train gone.py:PAIR", 2, "no file gone.py: give the path"),
        ("train gone_module:PAIR", 2, "cannot import 'gone_module'"),
        ("evaluate gone", 1, "there is no run gone"),
        ("sample gone", 1, "there is no run gone"),
        ("sample gone --n 0", 2, "n=0: draw at least 1 sample"),
        ("new 3x", 2, "'3x' is no Python name"),
        ("new torch", 2, "would hide the module torch"),
    ],
)
def test_one_line_that_says_the_fix(argv, status, message, capsys):
    found, line = refused(capsys, *argv.split())
    assert message in line
    assert found == status
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "box",
    [
        "╭─ Value error ─╮\n│ Error parsing --lr:\n│ could not convert string to float: 'x' │\n"
        "│ ──── │\n│ more │\n╰──╯\n",
        " Value error  \n ------- \n  Error parsing --lr: could not convert\n  string to float: 'x' \n"
        "  ------\n  more\n",
        "\x1b[31m╭─\x1b[0m Value error ─╮\n\x1b[31m│\x1b[0m \x1b[1mError parsing --lr:\x1b[0m could not "
        "convert string to float: 'x'\n╰──╯",
    ],
)
def test_the_parsers_box_becomes_a_line(box):
    """With frames, without, and with the colours of a terminal."""
    assert cli._one_line(box, ["train"]) == "--lr: 'x' is no number; see ppvae train --help"


def test_numbers_of_evaluate_are_checked(capsys):
    said(capsys, "train", "ppca", *QUICK, "--eval-k", "0")
    for argv in (["--k", "0"], ["--n", "-3"]):
        status, line = refused(capsys, "evaluate", "latest", *argv)
        assert (status, "use at least 1 of each" in line) == (2, True)
    status, line = refused(capsys, "evaluate", "latest", "--split", "tst")
    assert (status, "did you mean 'test'?" in line) == (2, True)


def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, line = refused(capsys, "train", "ppca", *QUICK, "--out", "file")
    assert status == 1
    assert "no run folder can be made in file" in line
    assert "use another --out" in line
    status, line = refused(capsys, "new", "mine", "--folder", "file")
    assert (status, "choose a folder that you may write" in line) == (2, True)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"<html>not found</html>"])
def test_a_data_file_that_is_damaged(content, capsys, tmp_path):
    (tmp_path / "own.npz").write_bytes(content)
    for command in ("train", "check"):
        status, line = refused(capsys, command, "ppca", "--data", "own.npz")
        assert status == 1
        assert "own.npz" in line
    assert not Path("runs").exists()


def test_a_checkpoint_that_is_damaged(capsys):
    said(capsys, "train", "ppca", *QUICK)
    for path in (only_run() / "checkpoints").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="is truncated"):
        status, line = refused(capsys, "evaluate", "latest")
    assert (status, line.endswith("no checkpoint that verifies: train again")) == (1, True)


def test_a_run_without_a_checkpoint_names_the_newest_that_has_one(capsys):
    said(capsys, "train", "ppca", *QUICK, "--eval-k", "0")
    first = only_run()
    said(capsys, "train", "ppca", *QUICK, "--eval-k", "0")
    for path in Path("runs/latest/checkpoints").iterdir():
        shutil.rmtree(path)
    status, line = refused(capsys, "evaluate", "latest")
    assert status == 1
    assert line.endswith(f"train again, or take {first.name}, the newest run beside it that has one")


OWN = """
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from ppvae import Pair


class Model(PyroModule):
    def __init__(self, x_shape=(10,)):
        super().__init__()
        self.decoder = nn.Linear(2, x_shape[0]).double()

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    calls = 0

    def __init__(self, model):
        super().__init__()
        self.encoder = nn.Linear(10, 2).double()

    def forward(self, x, *, n=None):
        loc = self.encoder(x)
        # HERE
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


PAIR = Pair(model=Model, guide=Guide, data="ppca_toy")
"""


@pytest.mark.parametrize(
    ("statement", "said_so"),
    [
        ("Guide.calls += 1 / (Guide.calls < 4)", "ZeroDivisionError"),
        (
            "if (calls := type(self).__dict__) and not self.training: raise KeyError('mine\\nand more')",
            "KeyError",
        ),
    ],
)
def test_an_error_in_the_users_own_pair_has_its_place(statement, said_so, capsys, tmp_path, monkeypatch):
    """In a later step, or in the evaluation: where no check could find it."""
    (tmp_path / "own.py").write_text(OWN.replace("# HERE", statement))
    line_number = OWN[: OWN.index("# HERE")].count("\n") + 1
    status, line = refused(capsys, "train", "own.py:PAIR", *QUICK, "--steps", "20")
    assert status == 1
    assert re.search(rf"own\.py:{line_number}: {said_so}: ", line), line
    assert "PPVAE_TRACEBACK=1" in line
    monkeypatch.setenv("PPVAE_TRACEBACK", "1")
    with pytest.raises((ZeroDivisionError, KeyError)):
        main(["train", "own.py:PAIR", *QUICK, "--steps", "20"])


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_an_error_while_the_users_file_is_imported_has_its_place(command, capsys, tmp_path):
    (tmp_path / "own.py").write_text("import math\n\nx = math.nothing\n")
    argv = ["train", "own.py:PAIR"]
    if command == "evaluate":
        said(capsys, "train", "ppca", *QUICK)
        argv = ["evaluate", "latest", "--pair", "own.py:PAIR"]
    status, line = refused(capsys, *argv)
    assert status == 1
    assert "own.py:3: AttributeError: " in line


def test_a_pair_without_data_is_told_so(capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace('data="ppca_toy"', "data=None"))
    for argv in ([], ["--no-check"]):
        status, line = refused(capsys, "train", "own.py:PAIR", *argv)
        assert status == 1
        assert "the pair has no data, but a field 'x'" in line
        assert "--data NAME" in line


@pytest.mark.parametrize(("end", "status"), [("SystemExit(3)", 3), ("SystemExit('over')", 1)])
def test_code_of_the_users_own_that_exits_is_named(end, status, capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("# HERE", f"raise {end}"))
    found, _, err = said(capsys, "train", "own.py:PAIR", "--no-check")
    assert found == status
    assert f"own.py:{OWN[: OWN.index('# HERE')].count(chr(10)) + 1}: SystemExit: " in err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("RuntimeError(\"CPUAllocator: can't allocate memory: you tried to allocate 80 bytes. Error\")",
         "out of memory (80 bytes asked for): use fewer particles, or a smaller --batch"),
        ("torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has')",
         "out of memory (2.00 GiB asked for): use fewer particles, or a smaller --batch"),
        ("MemoryError()", "out of memory: use fewer particles, or a smaller --batch"),
    ],
)  # fmt: skip
def test_what_does_not_fit_into_memory_says_what_to_do(error, line, capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("# HERE", f"raise {error}"))
    assert refused(capsys, "train", "own.py:PAIR", "--no-check") == (1, line)


def test_a_pair_of_ones_own_must_be_given_again(capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    assert said(capsys, "train", "own.py:PAIR", *QUICK)[0] == 0
    status, line = refused(capsys, "evaluate", "latest")
    assert (status, "give it again, --pair own.py:PAIR" in line) == (1, True)
    assert said(capsys, "evaluate", "latest", "--pair", "own.py:PAIR", "--k", "3")[0] == 0
    assert said(capsys, "sample", "latest", "--pair", "own.py:PAIR")[0] == 0
    assert said(capsys, "train", "own.py:PAIR", "--resume", "latest", "--steps", "7")[0] == 0


def test_every_finding_of_the_check_before_training_is_a_line(capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace('"z", dist.Normal(loc', '"w", dist.Normal(loc'))
    status, out, err = said(capsys, "train", "own.py:PAIR")
    assert status == 1
    assert out == ""
    assert all("own.py:" in line and "fix:" in line for line in err.strip().splitlines())
    assert not Path("runs").exists()


# ---- signals and processes


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("sent", "status", "line"),
    [(signal.SIGINT, 130, "ppvae: interrupted\n"), (signal.SIGTERM, 143, "ppvae: terminated\n")],
)
def test_signals(sent, status, line, tmp_path):
    """Sent in the middle of training: one line, and the lock is given up."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    argv = ["train", "ppca", "--epochs", "1000000", "--no-check", "--log-every", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ppvae", *argv],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        metrics = tmp_path / "runs" / "latest" / "metrics.jsonl"
        end = time.monotonic() + 100
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (status, line)


def test_a_process_of_its_own(tmp_path):
    """As users call it: status and output of `python -m ppvae`."""
    done = apart("train", "ppca", *QUICK, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "log p(x)" in done.stdout
    done = apart("train", "ppcaa", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ppvae: no pair 'ppcaa', did you mean 'ppca'?")


def test_main_puts_the_signal_handler_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    said(capsys, "list")
    assert signal.getsignal(signal.SIGTERM) is before
    assert cli.COMMANDS.keys() == {"list", "check", "train", "evaluate", "compare", "sample", "new"}

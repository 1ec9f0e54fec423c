"""Run folders: made whole, read by anyone, written by one process, and never what they are not."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ppvae.config import TrainConfig
from ppvae.errors import RunError
from ppvae.runs import Run

CONFIG = {"pair": "vae", **TrainConfig(epochs=2, sizes={"latent": 20}).to_dict()}


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "runs", "vae", "digits", "elbo", CONFIG) as made:
        yield made


def test_a_run_folder_holds_what_it_should(run):
    assert re.fullmatch(r"vae-digits-elbo-\d{8}-\d{6}-[0-9a-f]{4}", run.name)
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml", "env.json", "metrics.jsonl", "log.txt", "checkpoints", "figures", ".lock",
    }  # fmt: skip
    assert run.config == CONFIG
    assert "versions" in json.loads((run.path / "env.json").read_text())
    assert TrainConfig.from_dict({k: v for k, v in run.config.items() if k != "pair"}).sizes == {"latent": 20}
    assert run.checkpoints.is_dir()
    assert run.figures.is_dir()


def test_names_of_files_and_options_become_names_of_folders(tmp_path):
    with Run.create(tmp_path, "my pairs/two.py:PAIR", "/data/../set.npz", "iwae:particles=5", {}) as made:
        assert made.name.startswith("two.py_PAIR-set.npz-iwae_particles=5-")
        assert made.path.parent == tmp_path


def test_making_a_run_draws_nothing(tmp_path):
    import random

    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    Run.create(tmp_path, "vae", "digits", "elbo", {}).close()
    assert states == (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())


def test_reading_a_run_imports_no_torch(run):
    code = "import sys, ppvae.runs as r; r.Run.open(sys.argv[1]).metrics(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# ---- finding a run


def test_latest_is_followed(tmp_path, monkeypatch):
    with Run.create(tmp_path / "runs", "vae", "digits", "elbo", {}) as first:
        assert Run.open(tmp_path / "runs" / "latest").path == first.path
    with Run.create(tmp_path / "runs", "vae", "digits", "iwae", {}) as second:
        assert os.readlink(tmp_path / "runs" / "latest") == second.name
    monkeypatch.chdir(tmp_path)
    assert Run.open("latest").name == second.name
    assert Run.open("runs/latest/").name == second.name
    assert Run.open(first.name).name == first.name


def test_latest_is_a_file_where_links_cannot_be(tmp_path, monkeypatch):
    def refused(*_args, **_kwargs):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refused)
    for _ in range(2):
        with Run.create(tmp_path, "vae", "digits", "elbo", {}) as made:
            assert (tmp_path / "latest").read_text() == f"{made.name}\n"
            assert Run.open(tmp_path / "latest").path == made.path
    (tmp_path / "latest").write_text("../elsewhere\n")
    with pytest.raises(
        RunError, match=r"points to 'elsewhere', which is gone: the newest is vae-digits-elbo"
    ):
        Run.open(tmp_path / "latest")


def test_a_misspelt_run_suggests_the_nearest(run, tmp_path, monkeypatch):
    wrong = run.path.with_name(run.name.replace("digits", "digist"))
    with pytest.raises(RunError, match=f"did you mean '{re.escape(run.name)}'"):
        Run.open(wrong)
    with pytest.raises(RunError, match=f"did you mean '{re.escape(run.name)}'"):
        Run.open(run.path.parent / "vae-digits")
    with pytest.raises(RunError, match="did you mean 'latest'"):
        Run.open(run.path.parent / "lastest")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=f"no run zzz: the newest is {re.escape(run.name)}"):
        Run.open("zzz")
    with pytest.raises(RunError, match="there are none in none"):
        Run.open("zzz", root="none")


def test_a_latest_whose_run_is_gone_says_so(tmp_path):
    (tmp_path / "latest").symlink_to("vae-digits-elbo-gone")
    with pytest.raises(RunError, match="which is gone: there are none"):
        Run.open(tmp_path / "latest")


# ---- what is no run, or cannot be written


def test_a_foreign_folder_or_file_is_refused_untouched(tmp_path):
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.png").write_bytes(b"cat")
    with pytest.raises(RunError, match=r"no run folder, it has no config.yaml") as caught:
        Run.open(foreign, write=True)
    assert "\n" not in str(caught.value)
    assert [path.name for path in foreign.iterdir()] == ["cat.png"]
    with pytest.raises(RunError, match="is a file and no run folder"):
        Run.open(foreign / "cat.png")


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_root_that_cannot_be_is_refused(tmp_path, root):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"no run folder can be made in .*use another --out"):
        Run.create(tmp_path / root, "vae", "digits", "elbo", {})


def test_a_folder_called_latest_is_left_alone(tmp_path):
    (tmp_path / "latest").mkdir()
    with pytest.raises(RunError, match="is a folder and no link"):
        Run.create(tmp_path, "vae", "digits", "elbo", {})
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folders_are_refused(tmp_path):
    with Run.create(tmp_path / "runs", "vae", "digits", "elbo", {}) as made:
        pass
    for path in (made.path / ".lock", made.path, tmp_path / "runs"):
        path.chmod(0o555)
    with pytest.raises(RunError, match="cannot be written"):
        Run.open(made.path, write=True)
    with pytest.raises(RunError, match="no run folder can be made"):
        Run.create(tmp_path / "runs", "vae", "digits", "elbo", {})
    for path in (tmp_path / "runs", made.path):
        path.chmod(0o755)


def test_a_read_only_run_is_refused_for_writing_and_read_all_the_same(run, monkeypatch):
    run.log_metrics(step=1, elbo=-1.0)
    run.close()
    plain = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(RunError, match=r"cannot be written \(Permission denied\)"):
        Run.open(run.path, write=True)
    assert Run.open(run.path).metrics() == [{"step": 1, "elbo": -1.0}]


def test_a_failed_start_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(RunError, match="options are no plain values"):
        Run.create(tmp_path / "runs", "vae", "digits", "elbo", {"x": torch.zeros(1)})
    assert not (tmp_path / "runs").exists()

    def fails():
        raise KeyboardInterrupt

    monkeypatch.setattr("ppvae.runs.run.environment", fails)
    with pytest.raises(KeyboardInterrupt):
        Run.create(tmp_path / "runs", "vae", "digits", "elbo", {})
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_config_that_names_a_class_is_refused_and_not_executed(run, tmp_path):
    marker = tmp_path / "executed"
    (run.path / "config.yaml").write_text(f"x: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(RunError, match=r"config.yaml cannot be read") as caught:
        _ = run.config
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    (run.path / "config.yaml").write_text("- a list\n")
    with pytest.raises(RunError, match="holds no options"):
        _ = run.config


def test_the_log_has_the_time(run):
    run.log("passed over a checkpoint")
    assert re.fullmatch(r"[\d-]{10} [\d:]{8}  passed over a checkpoint\n", (run.path / "log.txt").read_text())


def test_json_files_are_written_whole_or_not_at_all(run, monkeypatch):
    run.write_json("evaluation.json", {"elbo": torch.tensor(-1.5), "k_hat": math.nan})
    file = run.path / "evaluation.json"
    assert json.loads(file.read_text()) == {"elbo": -1.5, "k_hat": "NaN"}

    def fails(*_):
        raise OSError(28, "No space left on device")

    before = {path.name for path in run.path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(RunError, match=r"evaluation.json cannot be written"):
            run.write_json("evaluation.json", {})
    assert json.loads(file.read_text())["elbo"] == -1.5
    assert {path.name for path in run.path.iterdir()} == before

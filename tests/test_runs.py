"""Run folders: made whole, read by anyone, written by one process, and never what they are not."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppvae import runs
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
    assert TrainConfig.from_dict({k: v for k, v in run.config.items() if k != "pair"}).sizes == {"latent": 20}
    assert run.checkpoints.is_dir()
    assert run.figures.is_dir()


def test_the_environment_names_versions_and_neither_machine_nor_user(run):
    env = run.env
    assert env["versions"]["torch"] == torch.__version__
    assert set(env["versions"]) >= {"python", "pyro", "ppvae", "numpy"}
    assert env["cpu_count"] == os.cpu_count()
    keys = {"started", "versions", "platform", "cpu", "cpu_count", "threads", "device", "cuda", "commit"}
    assert set(env) == keys
    assert str(Path.home()) not in json.dumps(env)


def test_the_commit_is_that_of_the_folder_one_works_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runs._commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first", "--no-verify"]):
        subprocess.run([*git, *command], check=True, cwd=tmp_path)
    commit = runs._commit()
    assert commit is not None
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("2")
    assert runs._commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert runs._commit() is None


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

    monkeypatch.setattr(runs, "environment", fails)
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


# ---- metrics


def test_metrics_come_back_and_are_there_at_once(run):
    run.log_metrics(
        step=50, elbo=-120.5, rate=np.float32(20.5), distortion=torch.tensor(100.0), sites={"z": [1, 2]}
    )
    assert (run.path / "metrics.jsonl").read_text().endswith('"sites": {"z": [1, 2]}}\n')
    run.log_metrics(step=100, valid_elbo=None, note="ok", counts=np.arange(2))
    assert Run.open(run.path).metrics() == [
        {"step": 50, "elbo": -120.5, "rate": 20.5, "distortion": 100.0, "sites": {"z": [1, 2]}},
        {"step": 100, "valid_elbo": None, "note": "ok", "counts": [0, 1]},
    ]


def test_what_is_not_finite_is_valid_json_and_comes_back(run):
    run.log_metrics(step=1, a=math.nan, b=math.inf, c=[-math.inf, torch.tensor(math.nan)])
    text = (run.path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["b"] == "Infinity"
    (entry,) = run.metrics()
    assert math.isnan(entry["a"])
    assert entry["b"] == math.inf
    assert entry["c"][0] == -math.inf
    assert math.isnan(entry["c"][1])


def test_a_value_that_json_cannot_hold_is_named(run):
    with pytest.raises(RunError, match=r"metrics.model is a object"):
        run.log_metrics(step=1, model=object())
    assert run.metrics() == []


@settings(max_examples=30, deadline=None)
@given(
    entries=st.lists(
        st.dictionaries(st.sampled_from("abc"), st.floats() | st.integers(), max_size=3), min_size=1
    ),
    cut=st.integers(1, 200),
)
def test_a_half_written_last_line_is_skipped_then_repaired(tmp_path_factory, entries, cut):
    with Run.create(tmp_path_factory.mktemp("runs"), "vae", "digits", "elbo", {}) as made:
        for step, entry in enumerate(entries):
            made.log_metrics(step=step, **entry)
        file = made.path / "metrics.jsonl"
        data = file.read_bytes()
        last = len(data) - (data[:-1].rfind(b"\n") + 1)
        lost = min(cut, last)
        file.write_bytes(data[: len(data) - lost])
    again = Run.open(made.path)
    found = again.metrics()
    assert len(found) == len(entries) - (lost > 1)
    again.log_metrics(step=99)
    assert repr(again.metrics()) == repr([*found, {"step": 99}])
    again.close()


def test_a_damaged_line_in_the_middle_is_named(run):
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is damaged"):
        run.metrics()


def test_a_resumed_run_forgets_what_it_will_write_again(run):
    for step in (10, 20, 30):
        run.log_metrics(step=step, elbo=-math.inf)
    run.drop_metrics_after(20)
    assert [entry["step"] for entry in run.metrics()] == [10, 20]
    run.log_metrics(step=25)
    assert [entry["step"] for entry in run.metrics()] == [10, 20, 25]


def test_a_full_disk_takes_back_what_it_cut_off(run, monkeypatch):
    import errno

    run.log_metrics(step=1)

    class Full:
        def __init__(self, path, mode, buffering=-1):
            self.file = open(path, mode, buffering=buffering)  # noqa: SIM115
            self.seek, self.truncate, self.left = self.file.seek, self.file.truncate, 5

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            done, self.left = self.file.write(data[: self.left]), 0
            return done

    with monkeypatch.context() as patch:
        patch.setattr(runs, "open", Full, raising=False)
        with pytest.raises(RunError, match=r"metrics.jsonl cannot be written .No space left"):
            run.log_metrics(step=2)
    run.log_metrics(step=3)
    assert [entry["step"] for entry in run.metrics()] == [1, 3]


def test_the_log_has_the_time(run):
    run.log("passed over a checkpoint")
    assert re.fullmatch(r"[\d-]{10} [\d:]{8}  passed over a checkpoint\n", (run.path / "log.txt").read_text())


def test_json_files_are_written_whole_or_not_at_all(run, monkeypatch):
    run.write_json("evaluation.json", {"elbo": torch.tensor(-1.5), "k_hat": math.nan, "path": Path("a")})
    found = run.read_json("evaluation.json")
    assert found["elbo"] == -1.5
    assert math.isnan(found["k_hat"])

    def fails(*_):
        raise OSError(28, "No space left on device")

    before = {path.name for path in run.path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(RunError, match=r"evaluation.json cannot be written"):
            run.write_json("evaluation.json", {})
    assert run.read_json("evaluation.json")["elbo"] == -1.5
    assert {path.name for path in run.path.iterdir()} == before
    for name in ("../out.json", "a/b.json", "config.yaml", ".lock"):
        with pytest.raises(RunError, match="no name for a JSON file"):
            run.write_json(name, {})
    with pytest.raises(RunError, match=r"none.json cannot be read"):
        run.read_json("none.json")


# ---- one writer


def other_process(code: str, path: Path) -> subprocess.Popen:
    """A process that opens the run for writing, prints a line and waits for its input to end."""
    lines = [
        "import sys, os",
        "from ppvae.runs import Run",
        f"run = Run.open({str(path)!r}, write=True)",
        code,
    ]
    command = [sys.executable, "-c", "\n".join([*lines, "print('ready', flush=True)", "sys.stdin.read()"])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_second_process_is_refused_by_the_pid_of_the_first(run):
    run.close()
    first = other_process("", run.path)
    try:
        reader = Run.open(run.path)
        assert reader.metrics() == []
        for write in (lambda: Run.open(run.path, write=True), lambda: reader.log_metrics(step=1)):
            with pytest.raises(RunError, match=f"in use by process {first.pid}: wait for it, or stop it"):
                write()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with Run.open(run.path, write=True) as own:
        assert (run.path / ".lock").read_text() == f"{os.getpid()}\n"
        own.log_metrics(step=1)


def test_the_lock_dies_with_its_holder_though_a_forked_child_lives(run):
    run.close()
    child = "pid = os.fork()\nif pid == 0:\n    sys.stdin.read(); os._exit(0)"
    first = other_process(child, run.path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    Run.open(run.path, write=True).close()
    assert first.stdin is not None
    first.stdin.close()


def test_runs_of_one_process_share_its_lock(run):
    second = Run.open(run.path, write=True)
    second.log_metrics(step=1)
    second.close()
    code = f"from ppvae.runs import Run; Run.open({str(run.path)!r}, write=True)"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"in use by process {os.getpid()}" in refused.stderr
    run.close()
    run.close()
    first = other_process("", run.path)
    first.communicate("")
    assert first.returncode == 0

"""The command line under torchrun: two processes, one run folder, and an end for all where one ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppvae import checkpoint, launched
from ppvae.cli import main
from ppvae.runs import Run

ROOT = Path(__file__).parents[2]
SMALL = ["--train-n", "640", "--sizes", "latent=2", "hidden=[8]", "--engine", "eager", "--no-check"]
SMALL += ["--schedule", "constant"]
SOON = 30.0
"""Seconds in which a run of several has to end that lost one."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def torchrun(*words: str) -> subprocess.Popen:
    """`ppvae WORDS` as two processes; the leader of a process group of its own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "-m", "ppvae", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen, limit: float) -> tuple[str, str]:
    """What it said; none of its processes outlives this."""
    try:
        return process.communicate(timeout=limit)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def ranks_of(launcher: int) -> dict[int, int]:
    """The process of each rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    found = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(v[5:]): child for v in variables if v.startswith(b"RANK=")}
    return found


def test_two_processes_train_and_one_writes_and_shows():
    words = ["train", "vae", *SMALL, "--steps", "30", "--eval-k", "5", "--eval-n", "5", "--log-every", "10"]
    process = torchrun(*words)
    out, err = ended(process, 100)
    assert process.returncode == 0, err
    (path,) = [path for path in Path("runs").iterdir() if not path.is_symlink()]
    assert [e["step"] for e in Run.open(path).metrics() if "loss" in e] == [10, 20, 30]
    assert (path / "evaluation.json").is_file()
    assert out.count("30 steps in") == 1
    assert "from step 0 to 30, by 2 processes" in (path / "log.txt").read_text()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds its processes in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_one_alone_goes_on(victim):
    words = ["train", "vae", *SMALL, "--epochs", "100000", "--checkpoint-every", "1", "--log-every", "1"]
    process = torchrun(*words)
    try:
        wait_for(lambda: any(Path("runs").glob("vae-*/checkpoints/step-*")), process)
        ranks = ranks_of(process.pid)
        assert sorted(ranks) == [0, 1]
        os.kill(ranks[victim], signal.SIGKILL)
        killed = time.monotonic()
    finally:
        _, err = ended(process, SOON)
    assert time.monotonic() - killed < SOON
    assert process.returncode not in (0, None)
    assert f"rank {1 - victim}: the other 1 of 2 processes are lost" in err or "SIGTERM" in err
    for pid in ranks.values():
        assert not Path(f"/proc/{pid}").exists()
    last = checkpoint.latest(Run.open("runs/latest").checkpoints)
    assert last is not None
    done = int(checkpoint.load(last)[1]["step"])
    assert main(["train", "vae", "--resume", "latest", "--steps", str(done + 3), "--eval-k", "0"]) == 0
    assert max(entry["step"] for entry in Run.open("runs/latest").metrics()) == done + 3


def wait_for(condition, process, limit: float = 60.0):
    started = time.monotonic()
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < limit
        time.sleep(0.05)


FAILING = """
import os
import torch
from ppvae.estimators import ELBO

class Failing(ELBO):
    calls = 0

    def objective(self, terms, knobs):
        self.calls += 1
        if os.environ["RANK"] == "1" and self.calls == 20:
            raise ValueError("of rank 1 alone")
        return super().objective(terms, knobs)
"""


def test_a_rank_that_fails_ends_all_and_says_why():
    Path("failing.py").write_text(FAILING)
    process = torchrun("train", "vae", *SMALL, "--estimator", "failing.py:Failing", "--epochs", "100000")
    _, err = ended(process, 60 + SOON)
    assert process.returncode not in (0, None)
    assert "ValueError: of rank 1 alone" in err
    assert [line for line in err.splitlines() if line.startswith("ppvae: rank 1: ")] != []


def test_only_train_is_for_several_processes(monkeypatch, capsys):
    variables = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launched.rank(), launched.size(), launched.local_rank()) == (1, 2, 1)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == (
        "ppvae: rank 1: only train runs on several processes: start list without torchrun\n"
    )
    monkeypatch.delenv("MASTER_PORT")
    assert (launched.rank(), launched.size()) == (0, 1)
    assert main(["list"]) == 0

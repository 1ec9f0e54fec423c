"""One writer a run: a second process is refused, and the lock dies with its holder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppvae.errors import RunError
from ppvae.runs import Run


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "runs", "vae", "digits", "elbo", {}) as made:
        yield made


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

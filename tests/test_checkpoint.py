"""Checkpoints: kills and full disks cost at most the one that is being written."""

import errno
import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

from ppvae import checkpoint
from ppvae.errors import RunError

TENSORS = {"model.weight": torch.arange(6.0).reshape(2, 3), "model.count": torch.tensor(7)}
STATE = {"step": 3, "epoch": 1, "knobs": {"beta": 0.1}, "best": None}


def newest(folder: Path) -> Path:
    """What `latest` finds without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last = checkpoint.latest(folder)
    assert last is not None
    return last


def test_nothing_to_take(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None
    path = checkpoint.save(tmp_path, 1, TENSORS, STATE)
    (path / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"passed over.*state\.json is missing"):
        assert checkpoint.latest(tmp_path) is None


# ---- keeping, replacing, sweeping


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_ones_are_kept_by_number(tmp_path):
    for step in (9, 10, 100, 10**9, 2 * 10**9):
        checkpoint.save(tmp_path, step, TENSORS, STATE)
    assert set(names(tmp_path)) == {"step-00000100", "step-1000000000", "step-2000000000"}
    assert checkpoint.latest(tmp_path) == tmp_path / "step-2000000000"
    checkpoint.save(tmp_path, 3 * 10**9, TENSORS, STATE, keep=1)
    assert names(tmp_path) == ["step-3000000000"]


def test_a_step_saved_again_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 1, TENSORS, {"a": 1})
    path = checkpoint.save(tmp_path, 1, TENSORS, {"a": 2})
    assert checkpoint.load(path)[1] == {"a": 2}
    assert names(tmp_path) == ["step-00000001"]


def test_a_later_one_that_is_damaged_is_passed_over_until_it_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 1, TENSORS, STATE)
    later = checkpoint.save(tmp_path, 5, TENSORS, STATE)
    (later / "state.json").write_bytes(b"")
    path = checkpoint.save(tmp_path, 3, TENSORS, STATE, keep=1)
    assert names(tmp_path) == ["step-00000003", "step-00000005"]
    with pytest.warns(UserWarning, match="step-00000005"):
        assert checkpoint.latest(tmp_path) == path
    checkpoint.save(tmp_path, 5, TENSORS, STATE)
    assert newest(tmp_path) == later


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    first = checkpoint.save(tmp_path, 1, TENSORS, STATE)
    half = tmp_path / ".writing-step-00000002-abc"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    assert checkpoint.latest(tmp_path) == first
    checkpoint.save(tmp_path, 2, TENSORS, STATE)
    assert names(tmp_path) == ["notes", "step-00000001", "step-00000002"]


def test_a_checkpoint_that_was_set_aside_and_not_yet_replaced_still_counts(tmp_path):
    checkpoint.save(tmp_path, 1, TENSORS, STATE)
    path = checkpoint.save(tmp_path, 2, TENSORS, {"a": 1})
    aside = path.rename(tmp_path / ".replaced-step-00000002")
    assert checkpoint.latest(tmp_path) == aside
    checkpoint.save(tmp_path, 3, TENSORS, STATE)
    assert checkpoint.load(path)[1] == {"a": 1}
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


# ---- crashes and full disks


def save_for_ever(folder: Path, started) -> None:
    last = checkpoint.latest(folder)
    step = 0 if last is None else int(checkpoint.load(last)[1]["step"])
    value = torch.zeros(20_000)
    while True:
        step += 1
        checkpoint.save(folder, step, {"a": value + step}, {"step": step})
        checkpoint.save(folder, step, {"a": value + step}, {"step": step})  # and over itself
        started.set()


def kill_while_saving(folder: Path, kills: int) -> None:
    context, reached, draws = multiprocessing.get_context("fork"), 0, random.Random(kills)
    for _ in range(kills):
        started = context.Event()
        writer = context.Process(target=save_for_ever, args=(folder, started), daemon=True)
        writer.start()
        assert started.wait(60)
        time.sleep(draws.uniform(0, 0.1))
        os.kill(writer.pid, signal.SIGKILL)  # pyright: ignore[reportArgumentType]
        writer.join()
        last = newest(folder)
        tensors, state = checkpoint.load(last)
        assert torch.equal(tensors["a"], torch.zeros(20_000) + state["step"])
        assert state["step"] >= max(1, reached)
        reached = state["step"]
    checkpoint.save(folder, reached + 1, TENSORS, STATE)
    assert [name for name in names(folder) if name.startswith(".")] == []
    assert len(names(folder)) <= 3


def test_three_kills_during_saves_cost_nothing(tmp_path):
    kill_while_saving(tmp_path, 3)


def save_and_die(folder: Path, step: int, at: int) -> None:
    """Save, and be killed just before the call number `at` that changes the disk."""
    calls = iter(range(1000))

    def deadly(plain):
        def call(*args, **kwargs):
            if next(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **kwargs)

        return call

    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (os, "unlink"), (os, "rmdir")):
        setattr(owner, name, deadly(getattr(owner, name)))
    checkpoint.save(folder, step, {"a": torch.ones(100)}, {"new": True}, keep=2)


@pytest.mark.parametrize("step", [2, 3])  # over the newest, and after it
def test_a_kill_at_any_call_costs_nothing(tmp_path, step):
    context, died = multiprocessing.get_context("fork"), 0
    for at in range(100):
        folder = tmp_path / str(at)
        for old in (1, 2):
            checkpoint.save(folder, old, TENSORS, {"new": False})
        writer = context.Process(target=save_and_die, args=(folder, step, at))
        writer.start()
        writer.join(60)
        last = newest(folder)
        state = checkpoint.load(last)[1]
        assert last.name.endswith(f"step-{step if state['new'] else 2:08d}")
        checkpoint.save(folder, 4, TENSORS, STATE)
        assert not [name for name in names(folder) if name.startswith(".")]
        if writer.exitcode == 0:
            break
        assert writer.exitcode == -signal.SIGKILL
        died += 1
    assert 8 <= died < 99


@pytest.mark.slow
def test_fifteen_kills_during_saves_cost_nothing(tmp_path):
    kill_while_saving(tmp_path, 15)


def only_the_first_is_left(folder: Path) -> None:
    assert names(folder) == ["step-00000001"]
    assert checkpoint.latest(folder) == folder / "step-00000001"


@pytest.mark.parametrize("call", ["fsync", "write", "mkdir", "rename"])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_temporary(tmp_path, monkeypatch, call):
    checkpoint.save(tmp_path, 1, TENSORS, STATE)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(*_args, **_kwargs):
        raise error

    class Full:
        def __init__(self, *_args):
            self.file = open(*_args)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise error

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", fails)
        elif call == "write":
            patch.setattr(checkpoint, "open", Full, raising=False)
        else:
            plain = getattr(Path, call)
            patch.setattr(
                Path, call, lambda p, *a, **k: fails() if p.name.startswith(".") else plain(p, *a, **k)
            )
        with pytest.raises(
            RunError, match=r"step-00000002: no space for a checkpoint of 0\.\d+ MB"
        ) as caught:
            checkpoint.save(tmp_path, 2, TENSORS, STATE)
    assert "free some" in str(caught.value)
    only_the_first_is_left(tmp_path)
    checkpoint.save(tmp_path, 2, TENSORS, STATE)


def save_within(folder: Path, limit: int, answer) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        checkpoint.save(folder, 2, {"a": torch.zeros(100_000)}, STATE)
    except RunError as error:
        answer.put(str(error))


def test_a_real_limit_on_file_size_is_reported_with_the_size(tmp_path):
    checkpoint.save(tmp_path, 1, TENSORS, STATE)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    writer = context.Process(target=save_within, args=(tmp_path, 100_000, answer))
    writer.start()
    writer.join(60)
    line = answer.get()
    assert "no space for a checkpoint of 0.4" in line
    only_the_first_is_left(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name a handle")
def test_everything_is_on_the_disk_before_the_rename_and_the_rename_after(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename

    def flushed(handle):
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name.split("-")[0])
        fsync(handle)

    def renamed(path, target):
        events.append(f"rename to {Path(target).name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    checkpoint.save(tmp_path / "folder", 1, TENSORS, STATE)
    assert events == [
        "tensors.safetensors", "state.json", "manifest.json", ".writing", "rename to step-00000001", "folder",
    ]  # fmt: skip


def test_an_interrupt_leaves_no_temporary(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, TENSORS, STATE)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, TENSORS, STATE)
    assert names(tmp_path) == ["step-00000001"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="step-00000001: cannot be written"):
        checkpoint.save(tmp_path / "file", 1, TENSORS, STATE)

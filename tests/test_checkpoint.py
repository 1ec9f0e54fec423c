"""Checkpoints: what is saved comes back bit for bit; damage, kills and full disks cost at most one."""

import ast
import errno
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import string
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ppvae import checkpoint
from ppvae.errors import RunError, UsageError

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)
TENSORS = {"model.weight": torch.arange(6.0).reshape(2, 3), "model.count": torch.tensor(7)}
STATE = {"step": 3, "epoch": 1, "knobs": {"beta": 0.1}, "best": None}


def same(a, b) -> bool:
    """Equal in type, order and bits, all the way down; tensors in dtype and shape too."""
    if isinstance(a, torch.Tensor):
        whole = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return whole and torch.equal(as_bytes(a), as_bytes(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel():
        return torch.zeros(0, dtype=torch.uint8)
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def tensors_of(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    """Any bits at all, NaN payloads included."""
    tensor = torch.zeros(shape, dtype=dtype)
    if tensor.numel():
        high, size = (2 if dtype == torch.bool else 256), tensor.numel() * dtype.itemsize
        as_bytes(tensor).copy_(
            torch.from_numpy(np.random.RandomState(seed).randint(0, high, size, dtype=np.uint8))
        )
    return tensor


any_tensor = st.builds(
    tensors_of, st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**31)
)
any_name = st.text(string.printable + "é", max_size=12).filter(lambda name: name != "__metadata__")
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
any_key = st.integers() | st.text("@.ab1", max_size=6) | st.booleans() | st.none()
any_tree = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | any_tensor,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(any_key, inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=30, deadline=None)
@given(
    tensors=st.dictionaries(any_name, any_tensor, max_size=4),
    state=st.dictionaries(any_name, any_json, max_size=3),
)
def test_what_is_saved_comes_back(tmp_path_factory, tensors, state):
    folder = tmp_path_factory.mktemp("checkpoints")
    path = checkpoint.save(folder, 3, tensors, state)
    found, rest = checkpoint.load(path)
    assert same(dict(sorted(found.items())), dict(sorted(tensors.items())))
    assert same(rest, state)
    shutil.rmtree(folder)


@settings(max_examples=100, deadline=None)
@given(tree=any_tree)
def test_flattening_has_an_exact_inverse(tree):
    tensors, rest = checkpoint.flatten_optimizer(tree)
    text = json.dumps(rest, allow_nan=False)
    assert same(checkpoint.unflatten_optimizer(tensors, json.loads(text)), tree)


def test_views_tied_and_strided_tensors_are_saved_by_value(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "base": base, "tied": base, "row": base[1], "turned": base.t(), "strided": base[:, ::2],
        "parameter": nn.Parameter(base), "conjugate": torch.tensor([1 + 2j]).conj(),
    }  # fmt: skip
    found, _ = checkpoint.load(checkpoint.save(tmp_path, 0, tensors, {}))
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize(
    ("tensors", "state", "word"),
    [
        ({"a": torch.zeros(2).to_sparse()}, {}, "dense"),
        ({"a": torch.zeros(2, device="meta")}, {}, "'a'"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, {}, "complex128"),
        ({"__metadata__": torch.zeros(2)}, {}, "rename"),
        ({}, {"groups": {0: "x"}}, "state.groups has the key 0"),
        ({}, {"best": [torch.zeros(2)]}, r"state.best\[0\] is a Tensor"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_by_name(tmp_path, tensors, state, word):
    with pytest.raises(UsageError, match=word):
        checkpoint.save(tmp_path / "new", 0, tensors, state)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("step", "keep"), [(-1, 3), (1, 0)])
def test_wrong_numbers_are_refused(tmp_path, step, keep):
    with pytest.raises(UsageError, match="keep"):
        checkpoint.save(tmp_path, step, TENSORS, STATE, keep=keep)


# ---- training goes on as if it had never stopped

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), amsgrad=True, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "sgd_plain": lambda p: torch.optim.SGD(p, lr=1e-2),
}


class Course:
    """A small training whose every step draws from all generators."""

    def __init__(self, name: str, seed: int):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        groups = [
            {"params": self.net[0].parameters()},
            {"params": [*self.net[1].parameters(), *self.net[3].parameters()]},
        ]
        self.optimizer = OPTIMIZERS[name](groups)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    def go(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            x = torch.randn(6, 5) + float(np.random.standard_normal()) + random.gauss(0, 1)
            loss = self.net(x).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
        return losses

    def save(self, folder: Path) -> Path:
        flat, optimizer = checkpoint.flatten_optimizer(self.optimizer.state_dict())
        schedule_flat, schedule = checkpoint.flatten_optimizer(self.schedule.state_dict())
        generators, rest = checkpoint.capture_generators()
        tensors = {f"net/{name}": t for name, t in self.net.state_dict().items()}
        for prefix, part in (("optimizer/", flat), ("schedule/", schedule_flat), ("generators/", generators)):
            tensors |= {prefix + name: t for name, t in part.items()}
        state = {"optimizer": optimizer, "schedule": schedule, "generators": rest}
        return checkpoint.save(folder, 5, tensors, state)

    def restore(self, path: Path) -> None:
        tensors, state = checkpoint.load(path)

        def part(prefix):
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        self.net.load_state_dict(part("net/"))
        self.optimizer.load_state_dict(checkpoint.unflatten_optimizer(part("optimizer/"), state["optimizer"]))
        self.schedule.load_state_dict(checkpoint.unflatten_optimizer(part("schedule/"), state["schedule"]))
        checkpoint.restore_generators(part("generators/"), state["generators"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_and_five_are_ten(tmp_path, name):
    whole = Course(name, seed=0)
    losses = whole.go(10)
    first = Course(name, seed=0)
    assert first.go(5) == losses[:5]
    path = first.save(tmp_path)
    second = Course(name, seed=99)
    second.go(2)
    second.restore(path)
    assert same(first.optimizer.state_dict(), second.optimizer.state_dict())
    assert second.go(5) == losses[5:]
    assert same(whole.net.state_dict(), second.net.state_dict())
    assert same(whole.optimizer.state_dict(), second.optimizer.state_dict())


def test_capturing_the_generators_draws_nothing():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    random.gauss(0, 1)
    np.random.standard_normal()  # both keep a spare normal now
    tensors, rest = checkpoint.capture_generators()

    def draw():
        return (
            torch.rand(3).tolist(),
            np.random.standard_normal(3).tolist(),
            [random.gauss(0, 1) for _ in range(3)],
        )

    first = draw()
    checkpoint.restore_generators(tensors, json.loads(json.dumps(rest)))
    assert draw() == first


def test_damaged_generators_are_refused_and_none_is_set():
    tensors, rest = checkpoint.capture_generators()
    before = random.getstate()
    random.random()
    after = random.getstate()
    assert before != after
    with pytest.raises(RunError, match="torch"):
        checkpoint.restore_generators({name: t for name, t in tensors.items() if name != "torch"}, rest)
    with pytest.raises(RunError, match="damaged"):
        checkpoint.restore_generators({**tensors, "torch": torch.zeros(3, dtype=torch.uint8)}, rest)
    assert random.getstate() == after


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_generators_and_tensors_come_back(tmp_path):
    torch.cuda.manual_seed(3)
    on_gpu = torch.rand(4, device="cuda")
    tensors, rest = checkpoint.capture_generators()
    first = torch.rand(4, device="cuda")
    found, state = checkpoint.load(
        checkpoint.save(tmp_path, 1, {**tensors, "x": on_gpu}, {"generators": rest})
    )
    checkpoint.restore_generators(found, state["generators"])
    assert torch.equal(torch.rand(4, device="cuda"), first)
    assert torch.equal(found["x"], on_gpu.cpu())


# ---- damage


def two(folder: Path) -> tuple[Path, Path]:
    return checkpoint.save(folder, 1, TENSORS, STATE), checkpoint.save(folder, 2, TENSORS, STATE)


def refused(path: Path, word: str) -> None:
    """`path` is refused in one line with `word` and a fix; `latest` takes the one before and says so."""
    with pytest.raises(RunError, match=word) as caught:
        checkpoint.load(path)
    assert str(path.name) in str(caught.value)
    assert "resume from the checkpoint before it" in str(caught.value)
    assert "\n" not in str(caught.value)
    lines = []
    before = checkpoint.latest(path.parent, report=lines.append)
    assert before is not None
    assert before.name == "step-00000001"
    assert len(lines) == 1
    assert path.name in lines[0]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, name, part):
    _, path = two(tmp_path)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: min(int(len(data) * part), len(data) - 1)])
    refused(path, rf"{name}.*(truncated|empty|changed)")


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_named(tmp_path, name):
    _, path = two(tmp_path)
    (path / name).unlink()
    refused(path, f"{name} is missing")


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_every_flipped_bit_is_found(tmp_path, name):
    _, path = two(tmp_path)
    file = path / name
    data = file.read_bytes()
    draws = random.Random(0)
    for position in draws.sample(range(len(data)), 60):
        changed = bytearray(data)
        changed[position] ^= 1 << draws.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(RunError, match=name):
            checkpoint.load(path)
    refused(path, f"{name}.*changed")
    file.write_bytes(data + b" ")
    refused(path, f"{name} was changed")


def resealed(path: Path, **files: bytes) -> None:
    """Change files and the manifest with them, as one would who wants us to read them."""
    body = checkpoint.manifest(path)
    for stem, data in files.items():
        name = next(name for name in body["files"] if name.startswith(stem))
        (path / name).write_bytes(data)
        body["files"][name] = {"size": len(data), "sha256": checkpoint._digest(data)}
    (path / "manifest.json").write_bytes(checkpoint._sealed(body))


def test_a_missing_tensor_is_named(tmp_path):
    _, path = two(tmp_path)
    resealed(path, tensors=checkpoint._pack({"model.count": TENSORS["model.count"]}))
    refused(path, "lacks tensor 'model.weight'")


def test_a_tensor_of_another_shape_is_named(tmp_path):
    _, path = two(tmp_path)
    resealed(path, tensors=checkpoint._pack({**TENSORS, "model.weight": torch.zeros(3, 2)}))
    refused(path, r"'model.weight' is no float32 of shape \[2, 3\]")


def test_a_manifest_of_another_make_is_refused(tmp_path):
    _, path = two(tmp_path)
    (path / "manifest.json").write_bytes(checkpoint._sealed({"format": 1}))
    refused(path, "manifest.json is no manifest")
    (path / "manifest.json").write_bytes(checkpoint._sealed({"format": 2}))
    with pytest.raises(RunError, match="format 2"):
        checkpoint.load(path)


def test_a_renamed_or_misspelt_checkpoint_is_refused(tmp_path):
    _, path = two(tmp_path)
    with pytest.raises(RunError, match="did you mean 'step-00000002'"):
        checkpoint.load(tmp_path / "step-0000002")
    path.rename(tmp_path / "step-00000009")
    with pytest.raises(RunError, match="holds step 2"):
        checkpoint.load(tmp_path / "step-00000009")


def test_nothing_to_take(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None
    path = checkpoint.save(tmp_path, 1, TENSORS, STATE)
    (path / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"passed over.*state\.json is missing"):
        assert checkpoint.latest(tmp_path) is None


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = str(file)

    def __reduce__(self):
        return (open, (self.file, "w"))


@pytest.mark.parametrize("stem", ["tensors", "state"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_pickle_under_any_name_is_refused_and_not_executed(tmp_path, stem, how, sealed):
    _, path = two(tmp_path)
    marker, evil = tmp_path / "executed", tmp_path / "evil"
    if how == "pickle":
        evil.write_bytes(pickle.dumps(Trap(marker)))
    else:
        torch.save({"a": Trap(marker)}, evil)
    if sealed:
        resealed(path, **{stem: evil.read_bytes()})
    else:
        next(path.glob(f"{stem}.*")).write_bytes(evil.read_bytes())
    refused(path, stem)
    assert not marker.exists()


def test_the_source_reads_no_pickle():
    tree = ast.parse(Path(checkpoint.__file__).read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    assert not names & {"pickle", "marshal", "shelve", "dill", "joblib"}
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {"torch.load", "torch.save", "np.load", "eval", "exec"}


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


def test_steps_never_go_back_unless_the_later_one_is_damaged(tmp_path):
    checkpoint.save(tmp_path, 1, TENSORS, STATE)
    later = checkpoint.save(tmp_path, 5, TENSORS, STATE)
    with pytest.raises(RunError, match=r"step-00000005 is later than step 3.*resume from it"):
        checkpoint.save(tmp_path, 3, TENSORS, STATE)
    (later / "state.json").write_bytes(b"")
    path = checkpoint.save(tmp_path, 3, TENSORS, STATE, keep=1)
    assert checkpoint.latest(tmp_path, report=lambda line: None) == path


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    first = checkpoint.save(tmp_path, 1, TENSORS, STATE)
    for name in (".writing-step-00000002-abc", ".removed-step-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tensors.safetensors").write_bytes(b"half")
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
        lines = []
        last = checkpoint.latest(folder, report=lines.append)
        assert last is not None
        assert lines == []
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
        lines = []
        last = checkpoint.latest(folder, report=lines.append)
        assert last is not None
        assert lines == []
        state = checkpoint.load(last)[1]
        assert checkpoint.manifest(last)["step"] == (step if state["new"] else 2)
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
            RunError, match=r"step-00000002: no space for a checkpoint of \d+ bytes"
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
    assert "no space for a checkpoint of 40" in line
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


def test_the_manifest_tells_versions_and_names_no_machine(tmp_path):
    body = checkpoint.manifest(checkpoint.save(tmp_path, 1, TENSORS, STATE))
    assert body["versions"]["torch"] == torch.__version__
    assert body["step"] == 1
    assert body["tensors"] == {"model.weight": ["float32", [2, 3]], "model.count": ["int64", []]}
    assert str(tmp_path) not in json.dumps(body)

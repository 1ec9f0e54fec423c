"""The files of a checkpoint: what is saved comes back bit for bit, and every damage is found and named."""

import ast
import json
import pickle
import random
import shutil
import string
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ppvae import checkpoint, manifest, state
from ppvae.errors import RunError, UsageError
from tests.bits import any_tensor, same

TENSORS = {"model.weight": torch.arange(6.0).reshape(2, 3), "model.count": torch.tensor(7)}
STATE = {"step": 3, "epoch": 1, "knobs": {"beta": 0.1}, "best": None}

any_name = st.text(string.printable + "é", max_size=12).filter(lambda name: name != "__metadata__")
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
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


def test_views_tied_and_strided_tensors_are_saved_by_value(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "base": base, "tied": base, "row": base[1], "turned": base.t(), "strided": base[:, ::2],
        "parameter": nn.Parameter(base), "conjugate": torch.tensor([1 + 2j]).conj(),
    }  # fmt: skip
    found, _ = checkpoint.load(checkpoint.save(tmp_path, 0, tensors, {}))
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        (torch.zeros(2).to_sparse(), "dense"),
        (torch.zeros(2, device="meta"), "'a'"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, tensor, word):
    with pytest.raises(UsageError, match=word):
        checkpoint.save(tmp_path / "new", 0, {"a": tensor}, {})
    assert not (tmp_path / "new").exists()


# ---- damage


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
    with pytest.warns(UserWarning, match="passed over") as passed:
        before = checkpoint.latest(path.parent)
    assert before is not None
    assert before.name == "step-00000001"
    (line,) = passed
    assert path.name in str(line.message)


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
    body = json.loads((path / "manifest.json").read_bytes())
    del body["sha256"]
    for stem, data in files.items():
        name = next(name for name in body["files"] if name.startswith(stem))
        (path / name).write_bytes(data)
        body["files"][name] = {"size": len(data), "sha256": manifest.digest(data)}
    (path / "manifest.json").write_bytes(manifest.sealed(body))


def test_a_manifest_of_another_format_is_refused(tmp_path):
    _, path = two(tmp_path)
    (path / "manifest.json").write_bytes(manifest.sealed({"format": 2}))
    with pytest.raises(RunError, match="format 2"):
        checkpoint.load(path)


def test_a_renamed_checkpoint_is_refused(tmp_path):
    _, path = two(tmp_path)
    path.rename(tmp_path / "step-00000009")
    with pytest.raises(RunError, match="holds step 2"):
        checkpoint.load(tmp_path / "step-00000009")


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


@pytest.mark.parametrize("module", [checkpoint, manifest, state])
def test_the_source_reads_no_pickle(module):
    tree = ast.parse(Path(module.__file__).read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    assert not names & {"pickle", "marshal", "shelve", "dill", "joblib"}
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {"torch.load", "torch.save", "np.load", "eval", "exec"}


def test_the_manifest_tells_versions_and_names_no_machine(tmp_path):
    path = checkpoint.save(tmp_path, 1, TENSORS, STATE)
    body = json.loads((path / "manifest.json").read_bytes())
    assert body["versions"]["torch"] == torch.__version__
    assert body["step"] == 1
    assert str(tmp_path) not in json.dumps(body)

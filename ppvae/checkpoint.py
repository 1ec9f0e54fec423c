"""Checkpoints that survive: safetensors for tensors, JSON for the rest, SHA-256 of both; no pickle is read.

    folder/step-00001234/{tensors.safetensors, state.json, manifest.json}

A checkpoint is written to a temporary folder beside its place, files and folder are flushed to the disk, and
one rename puts it there: whoever looks sees the whole checkpoint or none. One process writes to a folder at a
time, which the lock of its run sees to. The manifest finds damage; it is no signature, and needs to be none,
since nothing that a checkpoint holds is executed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import random
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ppvae.errors import RunError, UsageError, nearest

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
FORMAT = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STEP = re.compile(r"(?:\.replaced-)?step-(\d+)")
_INSTEAD = "resume from the checkpoint before it, or copy it here again"


def save(
    folder: str | Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 3
) -> Path:
    """Write `folder/step-<step>/` so that it is there whole or not at all, and return its path.

    Args:
        tensors: dense tensors of any shape and device by name; tied ones are stored once for each name.
        state: what JSON can hold, with texts as keys; NaN and infinities too. A tuple comes back as a list.
        keep: how many of the last checkpoints stay; a checkpoint of the same step is replaced.

    Raises:
        UsageError: a negative step, `keep` below 1, or a state or tensor that the format cannot hold.
        RunError: the disk is full or refuses, or a sound checkpoint of a later step is there. What was
            there before is still there, and nothing half-written is left.
    """
    folder = Path(folder)
    if step < 0 or keep < 1:
        raise UsageError(f"step={step}, keep={keep}: use a step of at least 0 and keep at least 1 checkpoint")
    _require_json(state, "state")
    files = {TENSORS: _pack(tensors), STATE: json.dumps(state, indent=1).encode()}
    files[MANIFEST] = _manifest(step, tensors, files)
    target = folder / f"step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        _refuse_to_go_back(folder, step)
        _write(files, target)
        _prune(folder, step, keep)
    except OSError as error:
        size = sum(map(len, files.values()))
        if error.errno in _FULL:
            raise RunError(
                f"{target}: no space for a checkpoint of {_bytes(size)} ({error.strerror}): free some and "
                "resume the run, whose earlier checkpoints are intact"
            ) from error
        raise RunError(f"{target}: cannot be written ({error.strerror}): make its folder writable") from error
    return target


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the state of one checkpoint, after every byte has been verified.

    Raises:
        RunError: naming the file that is missing, truncated or changed, and what to do.
    """
    return _read(Path(path))[1:]


def manifest(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says about itself, verified: format, step, versions, and its files and tensors."""
    return _read(Path(path))[0]


def latest(folder: str | Path, report: Callable[[str], object] | None = None) -> Path | None:
    """The newest checkpoint of a folder that verifies, or None. Changes nothing, so that anyone may ask.

    Args:
        report: called with one line for each newer checkpoint that was passed over; by default a warning.
    """
    for path in reversed(_all(Path(folder))):
        try:
            _read(path)
        except RunError as error:
            line = f"passed over a checkpoint: {error}"
            if report is not None:
                report(line)
            else:
                warnings.warn(line, stacklevel=2)
        else:
            return path
    return None


def flatten_optimizer(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split an optimizer's `state_dict()` into tensors by name and what JSON can hold; copies no tensor.

    Takes any nesting of dicts (keys of any plain kind), lists, tuples, numbers, texts, None and tensors: the
    state of schedules and estimators too. Raises UsageError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _flatten(state, "", tensors)


def unflatten_optimizer(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """The exact inverse of `flatten_optimizer`. Raises RunError for a tensor that is missing."""
    if isinstance(tree, list):
        return [unflatten_optimizer(tensors, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        tag, value = next(iter(tree.items()))
        if tag == "@tensor":
            if value not in tensors:
                raise RunError(f"the state lacks its tensor {value!r}{nearest(value, tensors)}: {_INSTEAD}")
            return tensors[value]
        if tag == "@float":
            return float(value)
        if tag == "@tuple":
            return tuple(unflatten_optimizer(tensors, item) for item in value)
        if tag == "@dict":
            return {unflatten_optimizer(tensors, k): unflatten_optimizer(tensors, v) for k, v in value}
    return {key: unflatten_optimizer(tensors, value) for key, value in tree.items()}


def _flatten(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        name = path or "value"
        while name in tensors:  # keys 1 and "1", or "a.b" beside a nested a and b
            name += "_"
        tensors[name] = node.detach()
        return {"@tensor": name}
    if node is None or isinstance(node, str | bool | int):
        return node
    if isinstance(node, float):
        return float(node) if math.isfinite(node) else {"@float": str(float(node))}
    below = f"{path}." if path else ""
    if isinstance(node, tuple | list):
        items = [_flatten(item, f"{below}{i}", tensors) for i, item in enumerate(node)]
        return items if isinstance(node, list) else {"@tuple": items}
    if isinstance(node, Mapping):
        if all(isinstance(key, str) and not key.startswith("@") for key in node):
            return {key: _flatten(value, below + key, tensors) for key, value in node.items()}
        pairs = [(_flatten(k, "", tensors), _flatten(v, f"{below}{k}", tensors)) for k, v in node.items()]
        return {"@dict": [list(pair) for pair in pairs]}
    raise UsageError(
        f"{path or 'the state'} is a {type(node).__name__}, which a checkpoint does not hold: use tensors, "
        "numbers, texts, and lists and dicts of them"
    )


def capture_generators() -> tuple[dict[str, Tensor], Any]:
    """The state of the generators of torch (CPU, and CUDA where it is in use), numpy and Python, as
    `flatten_optimizer` splits it. Draws nothing."""
    kind, words, spare = random.getstate()
    name, keys, position, has_normal, normal = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": [kind, torch.tensor(words), spare],
        "numpy": [name, torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_normal, normal],
    }
    return flatten_optimizer(state)


def restore_generators(tensors: Mapping[str, Tensor], tree: Any) -> None:
    """Set the generators to what `capture_generators` found; CUDA devices that are not here are left out.

    Raises RunError, and sets none, where a part is missing.
    """
    state = unflatten_optimizer(tensors, tree)
    try:
        kind, words, spare = state["python"]
        python = (kind, tuple(words.tolist()), spare)
        name, keys, *rest = state["numpy"]
        own = random.Random()
        own.setstate(python)
        np.random.RandomState().set_state(numbers := (name, keys.numpy().astype(np.uint32), *rest))
        torch.Generator().set_state(state["torch"])
        devices = list(state["cuda"])[: torch.cuda.device_count()]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(f"the state of the random generators is damaged ({error}): {_INSTEAD}") from error
    torch.set_rng_state(state["torch"])
    np.random.set_state(numbers)
    random.setstate(python)
    if devices:
        torch.cuda.set_rng_state_all(devices)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that numbers depend on."""
    from ppvae import __version__

    return {
        "ppvae": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "pyro": _version("pyro-ppl"),
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ---- writing


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    """All tensors in safetensors' format; in memory, so that we write and see a full disk's error."""
    storages: set[int] = set()
    packed = {}
    for name, tensor in tensors.items():
        if name == "__metadata__":
            raise UsageError("a tensor has safetensors' own name '__metadata__': rename it")
        try:
            value = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
            if value.untyped_storage().data_ptr() in storages:
                value = value.clone()  # safetensors refuses tied tensors
            storages.add(value.untyped_storage().data_ptr())
        except RuntimeError as error:
            raise UsageError(f"tensor {name!r} cannot be saved ({error}): make it dense") from error
        packed[name] = value
    try:
        return safetensors.torch.save(packed)
    except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise UsageError(
            f"safetensors cannot hold these tensors ({error}): use dense, common ones"
        ) from error


def _manifest(step: int, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]) -> bytes:
    kinds = {name: [_dtype(tensor), list(tensor.shape)] for name, tensor in tensors.items()}
    body = {
        "format": FORMAT,
        "step": step,
        "versions": versions(),
        "files": {name: {"size": len(data), "sha256": _digest(data)} for name, data in files.items()},
        "tensors": kinds,
    }
    return _sealed(body)


def _sealed(body: dict[str, Any]) -> bytes:
    """The manifest's text, with its own hash last: damage to the manifest is found as well."""
    return json.dumps({**body, "sha256": _digest(json.dumps(body).encode())}, indent=1).encode()


def _write(files: Mapping[str, bytes], target: Path) -> None:
    temporary = target.with_name(f".writing-{target.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        for name, data in files.items():
            with open(temporary / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _flush(temporary)
        _put(temporary, target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _put(temporary: Path, target: Path) -> None:
    """Rename into place; a checkpoint of the same step steps aside first, where `latest` looks too."""
    if not target.exists():
        temporary.rename(target)
        return
    aside = target.with_name(f".replaced-{target.name}")
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Make the names in a folder durable, where the system can (POSIX)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Clear what a killed writer left behind; put back what it had set aside and not yet replaced."""
    for path in folder.glob(".replaced-step-*"):
        target = folder / path.name.removeprefix(".replaced-")
        if target.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(target)
    for pattern in (".writing-step-*", ".removed-step-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _refuse_to_go_back(folder: Path, step: int) -> None:
    later = [path for path in _all(folder) if _step_of(path) > step]
    for path in reversed(later):
        try:
            _read(path)
        except RunError:
            continue  # unreadable: training went on from an earlier one, and will pass it
        raise RunError(f"{path} is later than step {step}: resume from it, start a new run, or move it away")


def _prune(folder: Path, step: int, keep: int) -> None:
    for path in [path for path in _all(folder) if _step_of(path) <= step][:-keep]:
        gone = path.with_name(f".removed-{path.name}")  # one rename: nobody ever sees half of it
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


# ---- reading


def _all(folder: Path) -> list[Path]:
    """Checkpoints by step, whatever their state; one that was set aside comes before its replacement."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_step_of(path), not path.name.startswith(".")))


def _step_of(path: Path) -> int:
    matched = _STEP.fullmatch(path.name)
    return int(matched[1]) if matched else -1


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Manifest, tensors and state. The bytes that are parsed are the bytes that were hashed."""
    if not path.is_dir():
        close = nearest(path.name, [p.name for p in _all(path.parent)])
        raise RunError(f"there is no checkpoint {path}{close}: give the path of a step-... folder")
    try:
        return _read_verified(path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # the manifest lacks something
        raise RunError(f"{path / MANIFEST} is no manifest of ours ({error!r}): {_INSTEAD}") from error


def _read_verified(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    body = _read_manifest(path)
    data = {name: _verified(path / name, body["files"][name]) for name in (TENSORS, STATE)}
    if _STEP.fullmatch(path.name) and _step_of(path) != body["step"]:
        raise RunError(f"{path} holds step {body['step']}: give the folder its own name again")
    try:
        tensors = safetensors.torch.load(data[TENSORS])
    except Exception as error:  # the parser's own errors, of several kinds
        raise RunError(f"{path / TENSORS} is no safetensors file ({error}): {_INSTEAD}") from error
    for name, (dtype, shape) in body["tensors"].items():
        if name not in tensors:
            raise RunError(f"{path / TENSORS} lacks tensor {name!r}: {_INSTEAD}")
        if (_dtype(tensors[name]), list(tensors[name].shape)) != (dtype, shape):
            raise RunError(f"{path / TENSORS}: tensor {name!r} is no {dtype} of shape {shape}: {_INSTEAD}")
    state = _parse(path / STATE, data[STATE])
    return body, tensors, state


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    data = _bytes_of(file)
    body = _parse(file, data)
    digest = body.pop("sha256", None)
    if body.get("format", FORMAT) != FORMAT:
        raise RunError(f"{file} has format {body['format']}, not {FORMAT}: use the ppvae that wrote it")
    if digest != _digest(json.dumps(body).encode()) or data != _sealed(body):
        raise RunError(f"{file} was changed since it was written (SHA-256): {_INSTEAD}")
    return body


def _verified(file: Path, entry: Mapping[str, Any]) -> bytes:
    data = _bytes_of(file)
    if len(data) < entry["size"]:
        raise RunError(f"{file} is truncated, {len(data)} of {entry['size']} bytes: {_INSTEAD}")
    if len(data) > entry["size"] or _digest(data) != entry["sha256"]:
        raise RunError(f"{file} was changed since it was written (SHA-256): {_INSTEAD}")
    return data


def _bytes_of(file: Path) -> bytes:
    if not file.is_file():
        raise RunError(f"{file} is missing: {_INSTEAD}")
    try:
        return file.read_bytes()
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}): {_INSTEAD}") from error


def _parse(file: Path, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = "is empty" if not data else "is no JSON, it was truncated or changed"
        raise RunError(f"{file} {what}: {_INSTEAD}") from error
    if not isinstance(found, dict):
        raise RunError(f"{file} was changed since it was written (no JSON object): {_INSTEAD}")
    return found


def _require_json(node: Any, path: str) -> None:
    """JSON would turn the key 1 into "1" without a word: what would come back as another is refused."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not isinstance(key, str):
                raise UsageError(f"{path} has the key {key!r}, and JSON holds texts alone: use {str(key)!r}")
            _require_json(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for i, item in enumerate(node):
            _require_json(item, f"{path}[{i}]")
    elif node is not None and not isinstance(node, str | bool | int | float):
        raise UsageError(f"{path} is a {type(node).__name__}: put tensors among the tensors, numbers as such")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"

"""The three files of a checkpoint: safetensors, JSON, and a manifest with the SHA-256 of both and of itself.

The manifest finds damage; it is no signature, and needs to be none, since nothing that is read here is
executed: no pickle is among it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ppvae.environment import versions
from ppvae.errors import RunError, UsageError

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
FORMAT = 1
_INSTEAD = "resume from the checkpoint before it, or copy it here again"


def pack(step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of each file by its name. Raises UsageError for a tensor that the format cannot hold."""
    files = {TENSORS: safetensors_of(tensors), STATE: json.dumps(state, indent=1).encode()}
    entries = {name: {"size": len(data), "sha256": digest(data)} for name, data in files.items()}
    body = {"format": FORMAT, "step": step, "versions": versions(), "files": entries}
    return {**files, MANIFEST: sealed(body)}


def unpack(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """The step, the tensors and the state. The bytes that are parsed are the bytes that were hashed.

    Raises:
        RunError: naming the file that is missing, truncated or changed, and what to do.
    """
    body = _read_manifest(folder / MANIFEST)
    data = {name: _verified(folder / name, body["files"][name]) for name in (TENSORS, STATE)}
    try:
        tensors = safetensors.torch.load(data[TENSORS])
    except Exception as error:  # the parser's own errors, of several kinds
        raise RunError(f"{folder / TENSORS} is no safetensors file ({error}): {_INSTEAD}") from error
    return body["step"], tensors, _parse(folder / STATE, data[STATE])


def safetensors_of(tensors: Mapping[str, Tensor]) -> bytes:
    """All tensors in safetensors' format; in memory, so that we write and see a full disk's error."""
    storages: set[int] = set()
    packed = {}
    for name, tensor in tensors.items():
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


def sealed(body: dict[str, Any]) -> bytes:
    """The manifest's text, with its own hash last: damage to the manifest is found as well."""
    return json.dumps({**body, "sha256": digest(json.dumps(body).encode())}, indent=1).encode()


def _read_manifest(file: Path) -> dict[str, Any]:
    data = _bytes_of(file)
    body = _parse(file, data)
    if body.get("format", FORMAT) != FORMAT:
        raise RunError(f"{file} has format {body['format']}, not {FORMAT}: use the ppvae that wrote it")
    body.pop("sha256", None)
    if data != sealed(body):
        raise RunError(f"{file} was changed since it was written (SHA-256): {_INSTEAD}")
    return body


def _verified(file: Path, entry: Mapping[str, Any]) -> bytes:
    data = _bytes_of(file)
    if len(data) < entry["size"]:
        raise RunError(f"{file} is truncated, {len(data)} of {entry['size']} bytes: {_INSTEAD}")
    if len(data) > entry["size"] or digest(data) != entry["sha256"]:
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
    except ValueError as error:
        what = "is empty" if not data else "is no JSON, it was truncated or changed"
        raise RunError(f"{file} {what}: {_INSTEAD}") from error
    if not isinstance(found, dict):
        raise RunError(f"{file} was changed since it was written (no JSON object): {_INSTEAD}")
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

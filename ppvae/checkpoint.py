"""Checkpoints that survive: whoever looks sees a whole one or none.

    folder/step-00001234/{tensors.safetensors, state.json, manifest.json}

A checkpoint is written to a temporary folder beside its place, files and folder are flushed to the disk, and
one rename puts it there. One process writes to a folder at a time, which the lock of its run sees to.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ppvae.errors import RunError
from ppvae.manifest import pack, unpack

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STEP = re.compile(r"(?:\.replaced-)?step-(\d+)")


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 3
) -> Path:
    """Write `folder/step-<step>/` so that it is there whole or not at all, and return its path.

    Args:
        tensors: dense tensors of any shape and device by name; tied ones are stored once for each name.
        state: what JSON can hold, with texts as keys; NaN and infinities too. A tuple comes back as a list.
        keep: how many of the last checkpoints stay; a checkpoint of the same step is replaced.

    Raises:
        UsageError: a tensor that the format cannot hold.
        RunError: the disk is full or refuses. What was there before is still there, and nothing half-written
            is left.
    """
    files = pack(step, tensors, state)
    target = folder / f"step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        _write(files, target)
        _prune(folder, step, keep)
    except OSError as error:
        if error.errno not in _FULL:
            reason = f"cannot be written ({error.strerror}): make its folder writable"
            raise RunError(f"{target}: {reason}") from error
        size = sum(map(len, files.values())) / 1e6
        raise RunError(
            f"{target}: no space for a checkpoint of {size:.3g} MB ({error.strerror}): free some and resume "
            "the run, whose earlier checkpoints are intact"
        ) from error
    return target


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the state of one checkpoint, after every byte has been verified.

    Raises:
        RunError: naming the file that is missing, truncated or changed, and what to do.
    """
    step, tensors, state = unpack(path)
    if _step_of(path) != step:
        raise RunError(f"{path} holds step {step}: give the folder its own name again")
    return tensors, state


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that verifies, or None, with a warning for each that was passed over.

    Changes nothing, so that anyone may ask.
    """
    for path in reversed(_all(folder)):
        try:
            load(path)
        except RunError as error:
            warnings.warn(f"passed over a checkpoint: {error}", stacklevel=2)
        else:
            return path
    return None


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
    for path in folder.glob(".writing-step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Later ones, damaged or training would have gone on from them, do not count."""
    for path in [path for path in _all(folder) if _step_of(path) <= step][:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    """Checkpoints by step, whatever their state; one that was set aside comes before its replacement."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_step_of(path), not path.name.startswith(".")))


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])

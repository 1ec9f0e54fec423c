"""Arrays from a user's `.npz` or `.npy` file, without ever unpickling."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ppvae.data.files import looks
from ppvae.errors import DataError

BROKEN = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays in `path` by name; a `.npy` file holds x. DataError where it is broken or holds objects."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
        if not head or looks(path, head) != "is truncated or changed":
            raise DataError(f"{path} {looks(path, head)}; make it with numpy.savez")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except BROKEN as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are never unpickled; save plain numeric arrays"
            ) from error
        raise DataError(f"{path} is truncated or damaged ({_first_line(error)}); make it anew") from error


def read_npy(path: Path) -> dict[str, np.ndarray]:
    """{"x": array} of a `.npy` file."""
    try:
        return {"x": np.load(path, allow_pickle=False)}
    except BROKEN as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are never unpickled; save plain numeric arrays"
            ) from error
        raise DataError(f"{path} is no whole .npy file ({_first_line(error)}); make it anew") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

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
    """The arrays in a `.npz` by name; those of a `.npy` are {"x": array}.

    DataError where the file is broken, or holds Python objects, which would have to be unpickled.
    """
    try:
        with open(path, "rb") as file:  # by hand, since numpy leaves a broken file open
            head = file.read(512)
            if not head or looks(path, head) != "is truncated or changed":
                raise DataError(f"{path} {looks(path, head)}; make it anew with numpy.save or numpy.savez")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except BROKEN as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are never unpickled; save plain numeric arrays"
            ) from error
        raise DataError(f"{path} is truncated or damaged ({_first_line(error)}); make it anew") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

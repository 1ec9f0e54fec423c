"""What an estimator raises that nobody foresaw, in one line: it is a row of its own, and the others go on."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import ppvae
from ppvae.linter.places import located, of_exception

_PPVAE = Path(ppvae.__file__).parent


def told(error: Exception) -> str:
    """`FILE:LINE: ErrorName: text`, the line being the deepest of the user's own code, else of the library's.

    Raises `error` itself where PPVAE_TRACEBACK is set, as on the command line.
    """
    if os.environ.get("PPVAE_TRACEBACK"):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PPVAE)]
    if of_exception(error).file is not None or not ours:
        return located(error)
    return f"{ours[-1].filename}:{ours[-1].lineno}: {located(error)}"

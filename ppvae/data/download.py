"""Fetching a torchvision set into the user's cache, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence

from ppvae.data.files import cache

TIMEOUT = 20.0  # seconds without an answer; torchvision itself would wait for ever


def download(torchvision_name: str, files: Sequence[str]) -> str:
    """Let torchvision fetch the set called `torchvision_name`; keep `files` (paths below the cache).

    Returns "" or, in a few words, why it could not be had. Each file arrives by a rename, so a killed
    download leaves no half file behind; torchvision checks the hashes, and the reader once more.
    """
    try:
        from torchvision import datasets

        cache().mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=cache(), prefix=".download-") as folder,
            contextlib.redirect_stdout(sys.stderr),
            _timeout(),
        ):
            getattr(datasets, torchvision_name)(folder, download=True)
            for name in files:
                (cache() / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(os.path.join(folder, name), cache() / name)
    except Exception as error:  # no network, no torchvision, no room: all end in the same one line
        text = " ".join(str(error).split()).rstrip(":")
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ""


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

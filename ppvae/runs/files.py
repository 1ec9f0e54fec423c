"""Writing so that a kill or a full disk leaves what was there before."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ppvae.errors import RunError


def replace(file: Path, data: bytes) -> None:
    """Write a file so that it is the old one or the new one at every moment."""
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        raise _refused(file, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def append(file: Path, line: str) -> None:
    """Add one line, unbuffered: a reader sees it now. What a full disk cuts off is taken back."""
    try:
        with open(file, "ab", buffering=0) as out:
            end, data = out.seek(0, os.SEEK_END), f"{line}\n".encode()
            try:
                while data:
                    data = data[out.write(data) :]
            except OSError:
                out.truncate(end)
                raise
    except OSError as error:
        raise _refused(file, error) from error


def _refused(file: Path, error: OSError) -> RunError:
    return RunError(f"{file} cannot be written ({error.strerror}): free space, or allow it")

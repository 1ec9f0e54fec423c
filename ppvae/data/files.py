"""Where data files are looked for, and whether they are what they should be. Reads only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ppvae.errors import DataError

MAGIC = {".gz": b"\x1f\x8b", ".webp": b"RIFF", ".npz": b"PK", ".npy": b"\x93NUMPY"}


def cache() -> Path:
    """The user's cache folder, the only place where ppvae stores downloads: `~/.cache/ppvae`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "ppvae"


def roots(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """The folders searched, in order: `root`, `$PPVAE_DATA`, the user's cache."""
    given = [root, os.environ.get("PPVAE_DATA")]
    return [Path(folder).expanduser() for folder in given if folder] + [cache()]


def locate(names: Iterable[str], root: str | os.PathLike[str] | None = None) -> Path | None:
    """The first root that holds every one of `names` (paths below a root), or None."""
    names = tuple(names)
    return next((r for r in roots(root) if all(_is_file(r / name) for name in names)), None)


def missing(name: str, files: str, root: str | os.PathLike[str] | None, reason: str = "") -> DataError:
    """The one line for a set that is nowhere: what, where it was looked for, why no download, what to do."""
    where = ", ".join(str(folder) for folder in roots(root))
    fetched = f"; it cannot be downloaded ({reason})" if reason else ""
    return DataError(
        f"{name} was not found in {where}{fetched}; put {files} into the folder that $PPVAE_DATA names, "
        f"or use --data digits, which is embedded"
    )


def verified(path: Path, algorithm: str, expected: str) -> bytes:
    """The content of `path`, whose hash is `expected`; DataError says what the file looks like instead."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make it a readable file") from error
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} {looks(path, content)}: expected {algorithm.upper()} {expected}, found {found}; "
            f"put the original file in its place, or move it away to have it looked for elsewhere"
        )
    return content


def looks(path: Path, content: bytes) -> str:
    """What is wrong with a file that is not what its name says, in a few words."""
    if not content:
        return "is empty"
    if content.lstrip()[:1] == b"<":
        return "is an HTML page, not data"
    if not content.startswith(MAGIC.get(path.suffix, b"")):
        return f"is not a {path.suffix} file"
    return "is truncated or changed"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered
        return False

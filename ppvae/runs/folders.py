"""Names under the folder of all runs: a new one, `latest`, and the one that is meant."""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path

from ppvae.errors import RunError, nearest

CONFIG, LATEST, CHECKPOINTS = "config.yaml", "latest", "checkpoints"


def new_folder(root: Path, *parts: str) -> Path:
    """Make `root/<parts>-<time>-<hex>`."""
    stem = "-".join(map(_slug, parts))
    while True:
        path = root / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def _slug(name: str) -> str:
    """A name within a file name: `my/pairs.py:PAIR` becomes pairs.py_PAIR."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return re.sub(r"[^\w.=+]+", "_", last).strip("._")[:48] or "unnamed"


def point_latest(root: Path, name: str) -> None:
    """Point `latest` at a run by one rename: a relative link, or a file with the name where links fail."""
    temporary = root / f".{LATEST}-{secrets.token_hex(4)}"
    try:
        temporary.symlink_to(name, target_is_directory=True)
    except OSError:
        temporary.write_text(f"{name}\n", encoding="utf-8")
    temporary.replace(root / LATEST)


def find_folder(path: Path, root: Path) -> Path:
    """The folder that is meant. A `latest` is followed, so that a run goes by its own name."""
    for place in (path, root / path):
        target = _target(place)
        if target is not None:
            place, link = place.parent / target, place
            if not place.is_dir():
                raise RunError(f"{link} points to {target!r}, which is gone: {_those_of(link.parent)}")
        if place.is_dir():
            return place
        if place.is_file():
            raise RunError(f"{place} is a file and no run folder: give the folder of a run")
    names = _runs_of(path.parent) + _runs_of(root)
    longer = [f", did you mean {name!r}?" for name in names if name.startswith(path.name)]
    hint = [*longer, nearest(path.name, [*names, LATEST] if names and path.name != LATEST else names)][0]
    raise RunError(f"there is no run {path}{hint or ': ' + _those_of(root)}")


def _target(place: Path) -> str | None:
    """Where `latest` points, be it a link or a file; None for any other path."""
    if place.is_symlink():
        return os.readlink(place)
    if place.name == LATEST and place.is_file():
        name = place.read_text(encoding="utf-8", errors="replace").strip()
        return Path(name).name
    return None


def _runs_of(folder: Path) -> list[str]:
    """Names of the runs in a folder, newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if (path / CONFIG).is_file() and not path.is_symlink()]
    return [path.name for path in sorted(found, key=lambda p: (p / CONFIG).stat().st_mtime, reverse=True)]


def newest_trained(folder: Path, but: str) -> str | None:
    """The newest run in a folder that has a checkpoint, one run excepted."""
    trained = (name for name in _runs_of(folder) if any((folder / name / CHECKPOINTS).glob("step-*")))
    return next((name for name in trained if name != but), None)


def _those_of(folder: Path) -> str:
    names = _runs_of(folder)
    return f"the newest is {names[0]}" if names else f"there are none in {folder}, train one first"

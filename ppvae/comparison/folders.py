"""The folder of a comparison: what was asked for, and what each cell came to, so that it can go on.

    runs/compare-<pair>-<time>-<hex>/{grid.yaml, cells/*.json, laboratory.json, compare.json, report.html,
                                      figures/*.png, .lock}

Every file is written whole or not at all. A cell's file says with which settings it was made; what other
settings made is never mixed in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ppvae.comparison.cells import Cell
from ppvae.comparison.findings import Laboratory
from ppvae.comparison.options import CompareConfig
from ppvae.errors import RunError, UsageError, nearest
from ppvae.runs import strict_json
from ppvae.runs.files import replace
from ppvae.runs.folders import new_folder
from ppvae.runs.lock import Lock

T = TypeVar("T")

GRID, CELLS, LABORATORY = "grid.yaml", "cells", "laboratory.json"
FREE = (
    "estimators", "seeds", "seed", "device", "threads", "out", "progress", "keep", "repeats", "probe",
    "probe_steps",
)  # fmt: skip
"""What may change when a grid goes on: more estimators or seeds leave the finished cells as they are, and the
laboratory is its own record."""
OF_LABORATORY = ("estimators", "repeats", "probe_steps", "seed")


class Folder:
    """A comparison's folder, from `Folder.create` or `Folder.open`; holds its lock until `close`."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = Lock.take(path)

    @classmethod
    def create(cls, root: Path, pair_name: str) -> Folder:
        """Raises RunError where `root` cannot be written."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = new_folder(root, "compare", pair_name)
            (path / CELLS).mkdir()
        except OSError as error:
            raise RunError(
                f"no folder can be made in {root} ({error.strerror or error}): use another --out"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, name: str | Path, root: Path) -> Folder:
        """Raises RunError: there is no such folder (see `find_folder`), or another process works in it."""
        return cls(find_folder(name, root))

    def asked(self) -> dict[str, Any]:
        """What grid.yaml says: the options, the pair, and what they came to."""
        return _asked(self.path / GRID)

    def ask(self, options: Mapping[str, Any], fresh: bool) -> None:
        """Record what is asked for; cells of other settings are refused, or with `fresh` thrown away.

        Raises UsageError naming the option that has changed.
        """
        if (self.path / GRID).is_file():
            before = self.asked()
            changed = [
                name
                for name in {**before, **options}
                if name not in FREE and before.get(name) != options.get(name)
            ]
            if fresh:
                shutil.rmtree(self.path / CELLS, ignore_errors=True)
                (self.path / LABORATORY).unlink(missing_ok=True)
            elif changed:
                name = changed[0]
                raise UsageError(
                    f"comparison {self.path} has {name}={before.get(name)!r}, not {options.get(name)!r}: "
                    "leave the option out to go on, or begin anew with --fresh"
                )
        (self.path / CELLS).mkdir(exist_ok=True)
        text = yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)
        replace(self.path / GRID, text.encode())

    def cell(self, settings: str, estimator: str, seed: int) -> Cell | None:
        """The finished cell, if there is one of these settings."""
        saved = _read(self._file(estimator, seed))
        if saved is None or saved["settings"] != settings:
            return None
        return _made(Cell.from_dict, saved.get("cell"))

    def keep_cell(self, settings: str, cell: Cell) -> None:
        _write(self._file(cell.estimator, cell.seed), {"settings": settings, "cell": cell.to_dict()})

    def laboratory(self, settings: str) -> Laboratory | None:
        saved = _read(self.path / LABORATORY)
        if saved is None or saved["settings"] != settings:
            return None
        return _made(Laboratory.from_dict, saved.get("laboratory"))

    def keep_laboratory(self, settings: str, laboratory: Laboratory) -> None:
        _write(self.path / LABORATORY, {"settings": settings, "laboratory": laboratory.to_dict()})

    def close(self) -> None:
        """Give up the lock."""
        self._lock.release()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _file(self, estimator: str, seed: int) -> Path:
        digest = hashlib.sha256(estimator.encode()).hexdigest()[:8]  # names are cut, and commas lost
        words = re.sub(r"[^\w.=+]+", "_", estimator).strip("._")[-48:]
        return self.path / CELLS / f"{words}-{digest}-seed{seed}.json"


def find_folder(name: str | Path, root: Path) -> Path:
    """The folder of that path, of that name under `root`, or the newest for `latest`.

    Raises:
        RunError: there is none; with the nearest name.
    """
    found = [path for path in (Path(name), root / name) if (path / GRID).is_file()]
    there = sorted(
        (path.parent for path in root.glob(f"compare-*/{GRID}")),
        key=lambda path: (path / GRID).stat().st_mtime,
        reverse=True,
    )
    if found or (str(name) == "latest" and there):
        return (found or there)[0]
    names = [path.name for path in there]
    close = nearest(Path(name).name, names)
    hint = close or (f": the newest is {names[0]}" if names else ": begin one without --resume")
    raise RunError(f"there is no comparison {name} in {root}{hint}")


def unlisted(path: Path, cells: Iterable[Cell]) -> list[str]:
    """Names of the cells that a folder holds beside these: of estimators or seeds that are not listed."""
    there = [_made(_name_of, _read(file)) for file in (path / CELLS).glob("*.json")]
    return sorted({name for name in there if name is not None} - {cell.name for cell in cells})


def _name_of(saved: Any) -> str:
    return Cell.from_dict(saved["cell"]).name


def saved_options(name: str | Path, root: Path) -> CompareConfig:
    """The options of a comparison that is to go on."""
    saved = _asked(find_folder(name, root) / GRID)
    names = {f.name for f in dataclasses.fields(CompareConfig)}
    return CompareConfig.from_dict({name: value for name, value in saved.items() if name in names})


def _asked(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no options in it")
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise RunError(f"{file} cannot be read ({line}): begin the comparison again") from error
    return found


def settings_hash(options: Mapping[str, Any], free: tuple[str, ...] = FREE) -> str:
    """SHA-256 of the options that a result depends on."""
    kept = {name: value for name, value in options.items() if name not in free}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _made(make: Callable[[Any], T], saved: Any) -> T | None:
    """None where it is of another form, such as another version's: its work is then done again."""
    try:
        return make(saved)
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def _write(file: Path, value: Any) -> None:
    replace(file, (strict_json.dumps(value, file.name, indent=1) + "\n").encode())


def _read(file: Path) -> Any:
    """None where there is no such file, or where it is damaged: its work is then done again."""
    try:
        found = strict_json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "settings" in found else None

"""Find a pair by name: `names()`, `find("vae")`, `find("my_module:PAIR")`, `find("path/to/file.py:PAIR")`.

A pair's name is the stem of its file in `guides/`; other packages add pairs by the entry-point group
`ppvae.pairs`. Only what the user names is imported, never a path that a file names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from ppvae.errors import UsageError, nearest
from ppvae.importing import import_place, split_place
from ppvae.pair import Pair

GUIDES = Path(__file__).parent / "guides"
if not GUIDES.exists():  # a checkout on a system without symlinks
    GUIDES = Path(__file__).parent.parent / "guides"


def names() -> list[str]:
    """The names of all pairs, built-in ones and those of installed packages."""
    built_in = [path.stem for path in GUIDES.glob("*.py") if not path.stem.startswith("_")]
    return sorted({*built_in, *(point.name for point in entry_points(group="ppvae.pairs"))})


def find(name: str | Pair) -> Pair:
    """The pair of that name.

    Raises:
        UsageError: no such pair, module, file or attribute, with the nearest name.
    """
    if isinstance(name, Pair):
        return name
    if ":" in name or name.endswith(".py"):
        return _from_place(name)
    if name in {path.stem for path in GUIDES.glob("*.py")} and not name.startswith("_"):
        module = importlib.import_module(f"ppvae.guides.{name}")
        return dataclasses.replace(module.PAIR, name=name)
    for point in entry_points(group="ppvae.pairs"):
        if point.name == name:
            return _checked(point.load(), name, name)
    raise UsageError(
        f"no pair {name!r}{nearest(name, names()) or '.'} There are: {', '.join(names())}; "
        "your own is found as my_module:PAIR or path/to/file.py:PAIR"
    )


def source_hash(name: str) -> str | None:
    """SHA-256 of the file that defines a pair given by its place; None for a built-in pair."""
    place, colon, _ = name.rpartition(":")
    path = Path(place or name).expanduser()
    if path.suffix != ".py":
        try:
            spec = importlib.util.find_spec(place) if colon else None
        except (ImportError, ValueError):
            return None
        path = Path(spec.origin) if spec is not None and spec.origin else path
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".py" and path.is_file() else None


def _from_place(text: str) -> Pair:
    place, attribute = split_place(text, "PAIR")
    module = import_place(place)
    if not hasattr(module, attribute):
        pairs = [key for key, value in vars(module).items() if isinstance(value, Pair)]
        raise UsageError(
            f"{place} has no {attribute!r}{nearest(attribute, pairs) or '.'} "
            f"Its pairs: {', '.join(pairs) or 'none'}"
        )
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    return _checked(getattr(module, attribute), text, stem if attribute == "PAIR" else attribute.lower())


def _checked(pair: object, text: str, name: str) -> Pair:
    if not isinstance(pair, Pair):
        raise UsageError(
            f"{text} is a {type(pair).__name__}, not a ppvae.Pair: write PAIR = Pair(model=..., guide=...)"
        )
    return pair if pair.name else dataclasses.replace(pair, name=name)

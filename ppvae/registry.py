"""Find a pair by name: `names()`, `find("vae")`, `find("my_module:PAIR")`, `find("path/to/file.py:PAIR")`.

A pair's name is the stem of its file in `guides/`; other packages add pairs by the entry-point group
`ppvae.pairs`. Only what the user names is imported, never a path that a file names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from ppvae.errors import UsageError, nearest
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
    place, colon, attribute = text.rpartition(":")
    if not colon or text.endswith(".py"):
        place, attribute = text, "PAIR"
    module = _import_file(place) if place.endswith(".py") else _import_module(place)
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


def _import_file(place: str) -> ModuleType:
    path = Path(place).expanduser()
    if not path.is_file():
        raise UsageError(f"no file {place}: give the path of the Python file that defines the pair")
    # One module object a path, so that a file given twice defines its classes once.
    module_name = f"ppvae_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit as stop:
        del sys.modules[module_name]
        raise _exits(place, stop) from None
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _exits(place: str, stop: SystemExit) -> UsageError:
    return UsageError(
        f"{place} exits when it is imported ({stop.code!r}): put what runs under if __name__ == '__main__'"
    )


def _import_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except SystemExit as stop:
        raise _exits(place, stop) from None
    except ModuleNotFoundError as error:
        raise UsageError(
            f"cannot import {place!r} ({error}): is it installed, and spelt module:PAIR?"
        ) from None

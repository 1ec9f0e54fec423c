"""What a user names by its place: `my_module:NAME` or `path/to/file.py:NAME`.

Only what the user names is imported, never a path that a file names.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ppvae.errors import UsageError


def split_place(text: str, default: str) -> tuple[str, str]:
    """(file or module, attribute): `file.py` alone means its attribute `default`."""
    place, colon, attribute = text.rpartition(":")
    return (text, default) if not colon or text.endswith(".py") else (place, attribute)


def import_place(place: str) -> ModuleType:
    """Import a file or a module.

    Raises:
        UsageError: there is none, or it exits when it is imported, or it is no Python.
    """
    return _import_file(place) if place.endswith(".py") else _import_module(place)


def _import_file(place: str) -> ModuleType:
    path = Path(place).expanduser()
    if not path.is_file():
        raise UsageError(f"no file {place}: give the path of the Python file that defines it")
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
    except SyntaxError as error:
        del sys.modules[module_name]
        raise _unread(place, error) from error
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _exits(place: str, stop: SystemExit) -> UsageError:
    return UsageError(
        f"{place} exits when it is imported ({stop.code!r}): put what runs under if __name__ == '__main__'"
    )


def _unread(place: str, error: SyntaxError) -> UsageError:
    return UsageError(f"{error.filename or place}:{error.lineno}: {error.msg}: mend that line")


def _import_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except SystemExit as stop:
        raise _exits(place, stop) from None
    except SyntaxError as error:
        raise _unread(place, error) from error
    except ModuleNotFoundError as error:
        raise UsageError(
            f"cannot import {place!r} ({error}): is it installed, and spelt module:NAME?"
        ) from None

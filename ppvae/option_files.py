"""Options in a YAML file, read the same way whatever command they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ppvae.errors import UsageError


def read_options(path: Path, what: str) -> dict[str, Any]:
    """The options in a file; `what` they are, in words, for who names a file that is not there.

    Raises:
        UsageError: says what is wrong with which file.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}: --config wants a YAML file of {what}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is no YAML ({reason}): write one option: value a line") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): make it readable") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds a {type(values).__name__}: write one option: value a line")
    return values

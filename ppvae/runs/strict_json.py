"""JSON that any reader takes: what is not finite becomes "NaN", "Infinity" and "-Infinity"."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ppvae.errors import RunError

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any, name: str, indent: int | None = None) -> str:
    """Numbers (Python's, numpy's or tensors), texts, None, and lists and dicts of them, as JSON.

    Raises RunError for anything else, which it calls `name`.
    """
    return json.dumps(_plain(value, name), allow_nan=False, indent=indent)


def loads(data: str | bytes) -> Any:
    """What `dumps` wrote, with its numbers. Raises ValueError where it is damaged."""
    return _number(json.loads(data))


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # of numpy or torch
        return _plain(value.tolist(), name)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise RunError(f"{name} is a {type(value).__name__}: log numbers, texts, and lists and dicts of them")


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value

"""Numbers of evaluation.json as cells of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppvae.reports.numerals import measured, numeral


def cell(found: Mapping[str, Any], name: str) -> str:
    """`name` of the entry with its `_stderr`, where it has one."""
    return measured(found[name], found.get(f"{name}_stderr"))


def data(count: int) -> str:
    return "1 datum" if count == 1 else f"{count} data"


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def p_value(value: float) -> str:
    return "< 1e-16" if value < 1e-16 else numeral(value, 2)


def short(value: float | None) -> str:
    return numeral(value, 3)

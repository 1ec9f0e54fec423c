"""Numbers as they are shown: as many digits as they are worth."""

from __future__ import annotations

import math


def numeral(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits, an en dash for None; whole numbers as they are."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    text = f"{value:.{_places(value, digits)}f}"
    return text if text.strip("-0.") else text.lstrip("-")


def measured(value: float | None, stderr: float | None, digits: int = 2) -> str:
    """`-97.31 ± 0.12`: a value with its standard error, which is shown with `digits` digits and says how
    many the value has; without one, the value by `numeral`."""
    if value is None or stderr is None or not math.isfinite(value) or not math.isfinite(stderr):
        return numeral(value)
    if stderr <= 0:
        return f"{numeral(value, 6)} ± 0"
    largest, places = max(abs(value), stderr), _places(stderr, digits)
    if largest >= 1e6 or places > 7:
        exponent = math.floor(math.log10(largest))
        scale = 10.0**exponent
        kept = min(9, max(0, _places(stderr / scale, digits)))
        return f"({value / scale:.{kept}f} ± {stderr / scale:.{kept}f})e{exponent}"
    return f"{value:.{places}f} ± {stderr:.{places}f}"


def _places(value: float, digits: int) -> int:
    """Places behind the point at which a number has that many significant digits."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else digits - 1

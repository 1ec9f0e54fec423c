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
    if stderr <= 1e-12 * abs(value):  # none, or that of the arithmetic
        return f"{numeral(value, 6)} ± 0"
    largest, places = max(abs(value), stderr), _places(stderr, digits)
    if largest >= 1e6 or places > 7:
        exponent = math.floor(math.log10(largest))
        scale = 10.0**exponent
        kept = min(9, max(0, _places(stderr / scale, digits)))
        return f"({value / scale:.{kept}f} ± {stderr / scale:.{kept}f})e{exponent}"
    text = f"{value:.{places}f}"
    return f"{text if text.strip('-0.') else text.lstrip('-')} ± {stderr:.{places}f}"


def signed(value: float | None, stderr: float | None, digits: int = 2) -> str:
    """`+1.60`: a difference with as many places as its standard error is worth, three digits without one.
    Zero has no sign."""
    if value is None or not math.isfinite(value):
        return numeral(value)
    if stderr is None or not math.isfinite(stderr) or stderr <= 0:
        text = numeral(value, 3)
        return f"+{text}" if value > 0 and text.strip("0.") else text
    return _signed(value, _shown_places(stderr, digits))


def interval(low: float, high: float, stderr: float, digits: int = 2) -> str:
    """`[-0.88, +4.08]`, with as many places as the standard error is worth, or more: an end that is not 0 is
    not shown as 0, which would leave open whether the interval holds 0."""
    places = _shown_places(stderr, digits)
    while places < 7 and any(end and not _signed(end, places).strip("+-0.") for end in (low, high)):
        places += 1
    return f"[{_signed(low, places)}, {_signed(high, places)}]"


def _shown_places(stderr: float, digits: int) -> int:
    return min(7, _places(stderr, digits)) if math.isfinite(stderr) and stderr > 0 else 3


def _signed(value: float, places: int) -> str:
    text = f"{value:+.{places}f}"
    return text if text.strip("+-0.") else text[1:]


def _places(value: float, digits: int) -> int:
    """Places behind the point at which a number has that many significant digits."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else digits - 1

"""An exception in one line that can be read aloud."""

from __future__ import annotations

LONGEST = 240
"""Characters of an exception's text; what torch and Pyro print beyond that are tensors and traces."""


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, with the second where the first only announces it."""
    if isinstance(error, KeyError):
        return f"key {error} not found"
    kept: list[str] = []
    for line in (" ".join(line.split()) for line in str(error).splitlines()):
        if line.startswith(("tensor(", "Trace Shapes", "Trace Parameters")):
            break
        kept += [line] if line else []
        if line and not line.endswith(":"):
            break
    text = " ".join(kept).rstrip(":") or type(error).__name__
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " ..."


def told(error: Exception) -> tuple[str, str]:
    """A line of the library's own, which ends with what to do: (message, fix)."""
    text = " ".join(str(error).split())
    cut = max(text.rfind(": "), text.rfind("; "))
    return (text[:cut], text[cut + 2 :]) if cut > 0 else (text, "")

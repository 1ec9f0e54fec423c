"""The errors that a user can cause: one line each, ending with what to do about it."""


class PPVAEError(Exception):
    """Base of all; the command line prints its text as one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(PPVAEError, ValueError):
    """A name, option or value that does not exist or does not fit."""

    exit_code = 2


class PairError(PPVAEError):
    """A model and a guide that do not fit each other, or their data."""


class DataError(PPVAEError):
    """Data that cannot be had, read or used."""


class RunError(PPVAEError):
    """A run folder or checkpoint that cannot be written, read or trusted."""


def nearest(name: str, names) -> str:
    """`", did you mean 'x'?"` for the nearest of `names`, or the empty string."""
    import difflib

    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""

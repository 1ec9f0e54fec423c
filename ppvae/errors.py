"""The errors that a user can cause: one line each, ending with what to do about it."""


class PPVAEError(Exception):
    """Base of all; the command line prints its text as one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(PPVAEError, ValueError):
    """A name, option or value that does not exist or does not fit."""

    exit_code = 2


class PairError(PPVAEError):
    """A model and a guide that do not fit each other, or their data."""


class EstimatorError(PairError):
    """An estimator that does not do what estimators do, whatever the pair."""


class DataError(PPVAEError):
    """Data that cannot be had, read or used."""


class RunError(PPVAEError):
    """A run folder or checkpoint that cannot be written, read or trusted."""


def nearest(name: str, names) -> str:
    """`", did you mean 'x'?"` for the nearest of `names`, or the empty string; case does not matter."""
    import difflib

    known = {known.casefold(): known for known in names}
    close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.55)
    return f", did you mean {known[close[0]]!r}?" if close else ""

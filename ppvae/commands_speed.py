"""What `ppvae check PAIR --speed` does and prints."""

from __future__ import annotations

from typing import Any

from ppvae.commands import console, names_estimator, one_line_warnings
from ppvae.errors import UsageError
from ppvae.speed import speed_of


@one_line_warnings()
def check_speed(name: str, data: str | None, options: dict[str, Any], compile: bool) -> int:
    """Count and time a training step of the pair, and print it.

    Args:
        options: fields of `TrainConfig`; they win over the pair's own.

    Raises:
        UsageError: the name is an estimator's.
    """
    if names_estimator(name):
        raise UsageError(
            f"{name} is an estimator, and it is a pair that takes steps: ppvae check vae --speed --estimator "
            f"{name}"
        )
    said = "counting and timing" if not compile else "counting, compiling (up to a minute) and timing"
    with console.status(said):
        found = speed_of(name, data, compile=compile, **options)
    found.render(console)
    return 0

"""What `ppvae compare` does and prints."""

from __future__ import annotations

from pathlib import Path

from ppvae.commands import console, one_line_warnings
from ppvae.comparison import CompareConfig, Comparison, compare
from ppvae.comparison.folders import unlisted
from ppvae.errors import RunError


@one_line_warnings()
def compare_estimators(
    pair: str | None, config: CompareConfig, resume: str | Path | None, fresh: bool
) -> None:
    """Compare, print the table, and say where everything is.

    Raises:
        RunError: an estimator failed, or none came to an end; when all is written.
    """
    found = compare(pair, config=config, save=True, resume=resume, fresh=fresh)
    assert found.folder is not None
    console.print(found.table())
    if others := unlisted(found.folder, found.cells):
        console.print(
            f"kept in the folder, not shown: {'; '.join(others)}: list them to see them", soft_wrap=True
        )
    figures = sorted((found.folder / "figures").glob("*.png"))
    for path in (*figures, found.folder / "compare.json", found.folder / "report.html"):
        console.print(f"written: {path}", soft_wrap=True)
    _refuse(found)


def _refuse(found: Comparison) -> None:
    """A script that goes on with the numbers must learn that some are missing."""
    if failed := found.failed():
        raise RunError(
            f"failed: {'; '.join(failed)}; see the lines above, mend them, and go on with: "
            f"ppvae compare --resume {found.folder}"
        )
    if found.is_empty():
        raise RunError("no estimator came to an end: see the lines above")

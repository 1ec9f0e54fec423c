"""What `ppvae compare` does and prints."""

from __future__ import annotations

from pathlib import Path

from ppvae.commands import console, one_line_warnings
from ppvae.comparison import CompareConfig, compare


@one_line_warnings()
def compare_estimators(
    pair: str | None, config: CompareConfig, resume: str | Path | None, fresh: bool
) -> None:
    """Compare, print the table, and say where everything is."""
    found = compare(pair, config=config, save=True, resume=resume, fresh=fresh)
    assert found.folder is not None
    console.print(found.table())
    figures = sorted((found.folder / "figures").glob("*.png"))
    for path in (*figures, found.folder / "compare.json", found.folder / "report.html"):
        console.print(f"written: {path}", soft_wrap=True)

"""A comparison for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ppvae.comparison.blocks import Block, blocks

if TYPE_CHECKING:
    from ppvae.comparison.result import Comparison


def table(comparison: Comparison) -> Group:
    """Every block of numbers below the other, so that a narrow terminal shows them all."""
    parts: list[Any] = []
    for block in blocks(comparison):
        parts += [Text(""), *_rendered(block)]
    laboratory = comparison.laboratory
    if laboratory is not None:
        parts.append(
            Text(f"Gradients: {laboratory.repeats} of each, batch of {laboratory.rows}, {laboratory.at}.")
        )
    return Group(*parts[1:])


def _rendered(block: Block) -> list[Any]:
    found = Table(
        box=box.SIMPLE_HEAD, title=block.title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i, (name, unit) in enumerate(block.columns):
        header = Text(name) if not unit else Text.assemble(name, "\n", (unit, "dim"))
        found.add_column(header, justify="left" if i == 0 else "right", overflow="fold", vertical="top")
    lines = []
    for row in block.rows:
        if len(row) < len(block.columns):
            lines.append(Text(f"{row[0]}: {row[-1]}", style="yellow"))
            row = [row[0], *["–"] * (len(block.columns) - 1)]
        found.add_row(*map(Text, row))
    return [found, *lines, *(Text(note, style="dim") for note in block.notes)]

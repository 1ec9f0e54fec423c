"""A comparison for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from ppvae.comparison.blocks import CLEAR, Block, blocks
from ppvae.comparison.words import short_names

if TYPE_CHECKING:
    from ppvae.comparison.result import Comparison

LEGEND = (
    "bias: |mean gradient - that of the estimator's own target|; z: that in standard errors of its noise, "
    f"above {CLEAR:g} (!) it is seen; variance: summed over parameters; SNR: |mean| / sd; DSNR: along the "
    "mean / astray; time: of one gradient."
)


def table(comparison: Comparison) -> Group:
    """Every block of numbers below the other, so that a narrow terminal shows them all; a line that says why
    there are no numbers stands there once."""
    labels = short_names(comparison.estimators)
    parts: list[Any] = []
    told: set[str] = set()
    for block in blocks(comparison):
        parts += [Text(""), _Fitting(block, labels)]
        for line in (f"{labels.get(r[0], r[0])}: {r[-1]}" for r in block.rows if len(r) < len(block.columns)):
            if line not in told:
                parts.append(Text(line, style="yellow"))
                told.add(line)
        parts += [Text(note, style="dim") for note in block.notes]
    laboratory = comparison.laboratory
    if laboratory is not None:
        if any(probed.groups for probed in laboratory.probes):
            parts += [Text(""), Text(LEGEND, style="dim")]
        parts.append(
            Text(f"Gradients: {laboratory.repeats} of each, batch of {laboratory.rows}, {laboratory.at}.")
        )
    if cut := [f"{label} is {name}" for name, label in labels.items() if label != name]:
        parts.append(Text(f"{'; '.join(cut)}.", style="dim"))
    return Group(*parts[1:])


class _Fitting:
    """A block's table. Where it is too wide it does without columns that it can spare; then words are cut."""

    def __init__(self, block: Block, labels: Mapping[str, str]):
        self.title, self.spare = block.title, block.spare
        self.columns = [(_renamed(name, labels), unit) for name, unit in block.columns]
        dashes = ["–"] * (len(block.columns) - 1)
        whole = (row if len(row) == len(block.columns) else [row[0], *dashes] for row in block.rows)
        self.rows = [[labels.get(row[0], row[0]), *row[1:]] for row in whole]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(range(len(self.columns)))
        for name in self.spare:
            if sum(map(self._whole, shown)) <= _room(options, shown):
                break
            shown = [i for i in shown if self.columns[i][0] != name]
        yield self._table(self._widths(shown, _room(options, shown)))

    def _whole(self, column: int) -> int:
        """The least width at which no cell and no word of the header is cut."""
        name, unit = self.columns[column]
        return max(cell_len(text) for text in (*name.split(), *unit.split(), *self._cells(column)))

    def _cells(self, column: int) -> list[str]:
        return [row[column] for row in self.rows]

    def _widths(self, shown: list[int], room: int) -> dict[int, int]:
        """By column. Where room is short, headers are broken first, then numbers, and last of all names."""
        widths = {i: max(map(cell_len, (*self.columns[i], *self._cells(i)))) for i in shown}
        for floor in (self._whole, lambda i: 5 if i else self._whole(i), lambda i: 1):
            while sum(widths.values()) > room and (wide := [i for i in shown if widths[i] > floor(i)]):
                widths[max(wide, key=lambda i: widths[i])] -= 1
        return widths

    def _table(self, widths: Mapping[int, int]) -> Table:
        found = Table(
            box=box.SIMPLE_HEAD, title=self.title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
        )
        for i, width in widths.items():
            name, unit = self.columns[i]
            found.add_column(
                Text(name) if not unit else Text.assemble(name, "\n", (unit, "dim")),
                justify="left" if i == 0 else "right",
                overflow="fold",
                vertical="top",
                width=width,
            )
        for row in self.rows:
            found.add_row(*(Text(row[i]) for i in widths))
        return found


def _room(options: ConsoleOptions, shown: list[int]) -> int:
    """What is left for text: a column has a space on either side."""
    return options.max_width - 2 * len(shown)


def _renamed(header: str, labels: Mapping[str, str]) -> str:
    for name, label in labels.items():
        if header.endswith(f" {name}"):
            return header.removesuffix(name) + label
    return header

"""How far a whole grid is: a bar where there is a terminal, else one line for each finished part."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ppvae.comparison.cells import Cell
from ppvae.reports import numeral


class GridProgress:
    """Parts done of all parts, the running one's bound, and the time left.

    with GridProgress(cells=9, wanted=True) as progress:
        progress.begin("elbo, seed 0")
        progress.told(0.5, {"elbo": -19.2})
        progress.finished(cell)
    """

    def __init__(self, cells: int, wanted: bool = True, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.wanted, self.cells, self.done = wanted, cells, 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[parts]}"),
            TextColumn("{task.fields[bound]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not (wanted and self.console.is_terminal),
        )
        self.task = self.bar.add_task("comparing", total=cells, parts=self._parts(), bound="")

    def __enter__(self) -> GridProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def begin(self, what: str) -> None:
        """A part begins."""
        self.bar.update(self.task, description=what, bound="")

    def told(self, share: float, entry: dict[str, Any]) -> None:
        """The running cell is at `share` of its budget; `entry` is its newest line of metrics."""
        bound = f"elbo {entry['elbo']:.2f} nats" if "elbo" in entry else ""
        self.bar.update(self.task, completed=self.done + share, bound=bound)

    def counted(self, done: int, total: int) -> None:
        """The laboratory has taken so many of its gradients."""
        if done % 10 == 0:
            self.bar.update(self.task, bound=f"{done} of {total} gradients")

    def finished(self, cell: Cell, kept: bool = False) -> None:
        """A cell is done; `kept`: it was so before."""
        self.done += 1
        self.bar.update(self.task, completed=self.done, parts=self._parts(), bound="")
        if not kept:
            self.say(f"{self._parts()} {cell.name}: {told_of(cell)}")

    def say(self, line: str) -> None:
        if self.wanted:
            self.console.print(Text(line), soft_wrap=True)

    def _parts(self) -> str:
        return f"{self.done}/{self.cells}"


def told_of(cell: Cell) -> str:
    """What came of a cell, in one line."""
    if cell.status != "done":
        return f"{cell.status}: {cell.line}"
    said = [f"{cell.steps} steps in {cell.seconds:.1f} s"]
    for name, key in (("test elbo", "elbo"), ("log p(x)", "log_likelihood")):
        if cell.final.get(key) is not None:
            said.append(f"{name} {numeral(cell.final[key], 5)} nats")
    return ", ".join(said)

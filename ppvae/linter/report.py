"""What the linter found: findings with file, line and fix, and a table of the sites."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ppvae.errors import PairError

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (error), doubtful (warning) or worth knowing (note)."""

    level: Level
    code: str
    """What kind of finding it is, one of the words in docs and tests, such as "missing-in-guide"."""
    message: str
    file: str | None = None
    line: int | None = None
    fix: str = ""
    site: str | None = None
    """The site, field or parameter that it is about."""

    def __post_init__(self) -> None:
        for name in ("message", "fix"):
            object.__setattr__(self, name, " ".join(getattr(self, name).split()))

    @property
    def place(self) -> str:
        """`file:line`, relative to the current folder where the file lies in it."""
        if self.file is None:
            return "pair"
        path = Path(self.file)
        try:
            shown = path.relative_to(Path.cwd())
        except ValueError:
            shown = path
        return f"{shown}:{self.line}" if self.line else str(shown)

    def __str__(self) -> str:
        return f"{self.place}: {self.level}: {self.message}" + (f"; fix: {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class Row:
    """One site of the table; shapes are those of one particle on the checked batch."""

    name: str
    kind: str
    plates: tuple[str, ...]
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    model: str
    guide: str
    support: str
    how: str


@dataclass
class Report:
    """Everything that `check` found about one pair."""

    pair: str
    findings: list[Finding] = field(default_factory=list)
    table: list[Row] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings and notes do not count."""
        return not self.of("error")

    def of(self, level: Level) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    def raise_if_broken(self) -> Report:
        """Itself, or a PairError with one line per error."""
        if not self.ok:
            raise PairError("\n".join(map(str, self.of("error"))))
        return self

    def __str__(self) -> str:
        lines = [str(finding) for level in LEVELS for finding in self.of(level)]
        return "\n".join([*lines, self.summary])

    @property
    def summary(self) -> str:
        counts = {level: len(self.of(level)) for level in LEVELS}
        said = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
        return f"{self.pair}: {', '.join(said) or 'model and guide fit each other and the data'}"

    def render(self, console: Any = None) -> None:
        """Print the table of sites and the findings to a rich console, by default a new one on stdout."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = console or Console()
        if self.table:
            narrow = console.width < 100  # no word is to be broken on a terminal of 80 columns
            batch, event = ("batch", "event") if narrow else ("batch_shape", "event_shape")
            table = Table(
                title=f"sites of {self.pair}",
                title_justify="left",
                box=box.SIMPLE,
                padding=(0, 0 if narrow else 1, 0, 0),
                pad_edge=False,
                show_edge=not narrow,
            )
            for column in ("site", "kind", "plates", batch, event, "model", "guide", "support", "how"):
                whole = column in ("kind", batch, "support", "how")
                table.add_column(column, overflow="fold", no_wrap=whole)
            for row in self.table:
                cells = [
                    row.name,
                    row.kind,
                    ", ".join(row.plates),
                    str(row.batch_shape),
                    str(row.event_shape),
                ]
                # Text, not markup: a shape such as [3] must not be read as a style.
                table.add_row(*map(Text, [*cells, row.model, row.guide, row.support, row.how]))
            console.print(table)
        styles = {"error": "bold red", "warning": "yellow", "note": "cyan"}
        for level in LEVELS:
            for finding in self.of(level):
                line = Text(f"{finding.place}: ")
                line.append(level, style=styles[level])
                line.append(f": {finding.message}")
                if finding.fix:
                    line.append("\n    fix: ", style="green").append(finding.fix)
                console.print(line, soft_wrap=True)
        console.print(Text(self.summary, style="bold" if self.ok else "bold red"))

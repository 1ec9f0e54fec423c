"""What the oracles say of an estimator: one row a property and oracle."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "fail", "biased", "unseen", "no claim", "not applicable"]
MEANING: dict[Verdict, str] = {
    "pass": "as claimed",
    "fail": "not as claimed",
    "biased": "a bias that is claimed, and seen",
    "unseen": "a bias that is claimed, and not seen here",
    "no claim": "nothing to hold it against",
    "not applicable": "refused, or without a known truth",
}

LEGEND = (
    "a row shows the datum or the parameter that is furthest off, by |z|; value: the mean of the bound; "
    "bound: that mean beside log p(x), with a z where it is on the wrong side"
)


@dataclass(frozen=True)
class OracleRow:
    """One property on one oracle; of many numbers, the one that is furthest off in standard errors."""

    oracle: str
    property: str
    verdict: Verdict
    truth: float | None = None
    estimate: float | None = None
    z: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        numbers = ""
        if self.truth is not None and self.estimate is not None:
            numbers = f" {self.estimate:.6g} for {self.truth:.6g}" + (
                "" if self.z is None else f" (z = {self.z:.1f})"
            )
        return f"{self.oracle}: {self.property}: {self.verdict}:{numbers} {self.detail}".rstrip(" :")


@dataclass
class OracleReport:
    """Everything that the oracles say of one estimator."""

    estimator: str
    rows: list[OracleRow] = field(default_factory=list)
    comparisons: int = 0
    """How many estimates were held against a truth by a z-score."""
    threshold: float = math.inf
    """|z| above which an estimate is off."""
    seed: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether something was judged and nothing failed."""
        return not self.of("fail") and bool(self.of("pass", "biased"))

    def of(self, *verdicts: Verdict) -> list[OracleRow]:
        return [row for row in self.rows if row.verdict in verdicts]

    @property
    def summary(self) -> str:
        targets = {"value", "model gradient", "guide gradient"}
        failed = [f"{row.property} on {row.oracle}" for row in self.of("fail")]
        if failed:
            more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
            said = f"not as claimed: {', '.join(failed[:5])}{more}"
        elif not self.ok:
            said = "no oracle could judge it"
        elif targets & {row.property for row in self.of("pass", "biased")}:
            said = "every claim holds"
        else:
            unknown = targets & {row.property for row in self.of("not applicable")}
            why = "their truth is not known" if unknown else "it names no targets()"
            said = f"what could be judged holds, but neither value nor gradient was judged: {why}"
        return (
            f"{self.estimator}: {said} ({self.comparisons} comparisons, |z| < {self.threshold:.2f}, "
            f"seed {self.seed}, {self.seconds:.0f} s)"
        )

    def __str__(self) -> str:
        return "\n".join([*map(str, self.rows), self.summary])

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are not finite become None."""
        return {
            "estimator": self.estimator,
            "ok": self.ok,
            "comparisons": self.comparisons,
            "threshold": self.threshold,
            "seed": self.seed,
            "seconds": self.seconds,
            "rows": [
                {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
                for row in map(dataclasses.asdict, self.rows)
            ],
        }

    def render(self, console: Any = None) -> None:
        """Print the table to a rich console, by default a new one on stdout."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = console or Console()
        styles = {"fail": "bold red", "biased": "yellow", "unseen": "yellow", "not applicable": "dim"}
        judged = [row for row in self.rows if row.verdict != "not applicable"]
        if judged:
            title = f"{self.estimator} against what is known"
            table = Table(
                title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False
            )
            for column in ("oracle", "property"):
                table.add_column(column)
            for column in ("truth", "estimate", "z"):
                table.add_column(column, justify="right", no_wrap=True)
            table.add_column("verdict", no_wrap=True)
            for row in judged:
                z = "" if row.z is None else f"{round(row.z, 1) + 0.0:.1f}"  # no -0.0
                cells = [row.oracle, row.property, _shown(row.truth), _shown(row.estimate), z]
                table.add_row(*map(Text, cells), Text(row.verdict, style=styles.get(row.verdict, "")))
            console.print(table)
            console.print(Text(LEGEND, style="dim"))
        for row in self.rows:
            if row.verdict == "not applicable" or (
                row.detail and row.verdict in ("fail", "biased", "no claim")
            ):
                line = Text(f"{row.oracle}: {row.property}: " if row.property else f"{row.oracle}: ")
                line.append(row.verdict, style=styles.get(row.verdict, ""))
                line.append(f": {row.detail}")
                console.print(line, soft_wrap=True)
        console.print(Text(self.summary, style="bold" if self.ok else "bold red"), soft_wrap=True)


def _shown(number: float | None) -> str:
    if number is None:
        return ""
    return f"{round(number, 6) + 0.0:.6f}" if abs(number) < 1e5 else f"{number:.4g}"

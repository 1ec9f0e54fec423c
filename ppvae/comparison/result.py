"""`Comparison`: what `compare` returns, with its table, its figures, its JSON and its page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvae.comparison.cells import METRICS, Cell
from ppvae.comparison.differences import Difference, mean_and_stderr, paired_difference
from ppvae.comparison.findings import Laboratory
from ppvae.runs import strict_json
from ppvae.runs.files import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group

FORMAT = 1
UNITS = {
    "elbo": "nats per datum",
    "log_likelihood": "nats per datum",
    "seconds": "seconds of training, looking at test data not counted",
    "seconds_per_step": "seconds",
    "interval": "95 %, Student's t over seeds",
}


@dataclass
class Comparison:
    """Estimators on one pair: what each came to under one budget, and what their gradients are like."""

    pair: str
    estimators: list[str]
    """In the order they were asked for: the first is the baseline of differences."""
    config: dict[str, Any]
    """The options of the comparison."""
    training: dict[str, Any] = field(default_factory=dict)
    """The options of each training, as they came out."""
    data: dict[str, Any] = field(default_factory=dict)
    """name, hash, binarization and the sizes of the splits."""
    cells: list[Cell] = field(default_factory=list)
    laboratory: Laboratory | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    """Where it is kept, if it is."""

    @property
    def baseline(self) -> str:
        """The estimator that the others are held against."""
        return self.estimators[0]

    def of(self, estimator: str) -> list[Cell]:
        """The cells of an estimator, by seed."""
        return sorted((c for c in self.cells if c.estimator == estimator), key=lambda cell: cell.seed)

    def finals(self, estimator: str, metric: str) -> dict[int, float]:
        """A final test metric by seed, of the cells that came to an end."""
        done = [cell for cell in self.of(estimator) if cell.status == "done"]
        return {c.seed: c.final[metric] for c in done if c.final.get(metric) is not None}

    def summary(self, estimator: str) -> dict[str, Any]:
        """Means over seeds with their standard errors; from one seed, the error over the test data."""
        cells = self.of(estimator)
        done = [cell for cell in cells if cell.status == "done"]
        found: dict[str, Any] = {"estimator": estimator, "cells": len(cells), "done": len(done)}
        for metric in METRICS:
            mean, stderr, n = mean_and_stderr(self.finals(estimator, metric))
            over = "seeds"
            if n == 1:
                stderr, over = done[0].final.get(f"{metric}_stderr"), "test data"
            found[metric] = {"mean": mean, "stderr": stderr, "n_seeds": n, "stderr_over": over}
        speeds = {c.seed: c.seconds / c.steps for c in done if c.steps}
        mean, stderr, n = mean_and_stderr(speeds)
        found["seconds_per_step"] = {"mean": mean, "stderr": stderr, "n_seeds": n}
        found["steps"] = mean_and_stderr({c.seed: float(c.steps) for c in done})[0]
        found["seconds"] = mean_and_stderr({c.seed: c.seconds for c in done})[0]
        return found

    def difference(self, estimator: str, metric: str = "log_likelihood") -> Difference | None:
        """The paired difference of a final test metric to the baseline's, over seeds."""
        return paired_difference(self.finals(estimator, metric), self.finals(self.baseline, metric))

    def refusals(self) -> dict[str, str]:
        """By estimator, why it has no numbers, or not for every seed."""
        found: dict[str, str] = {}
        for cell in self.cells:
            if cell.status != "done":
                found.setdefault(cell.estimator, f"{cell.status}: {cell.line}")
        for probed in self.laboratory.probes if self.laboratory else []:
            if probed.line is not None:
                found.setdefault(probed.estimator, probed.line)
        return found

    def failed(self) -> list[str]:
        """What raised, or gave gradients that are not finite: trainings and laboratory rows by name."""
        found = [cell.name for cell in self.cells if cell.status == "failed"]
        probes = self.laboratory.probes if self.laboratory else []
        return found + [f"{p.estimator} in the laboratory" for p in probes if p.failed is not None]

    def is_empty(self) -> bool:
        """Whether no training came to an end and no gradient was looked at."""
        probes = self.laboratory.probes if self.laboratory else []
        return not any(c.status == "done" for c in self.cells) and not any(p.groups for p in probes)

    def table(self) -> Group:
        """All of it for a terminal: `rich.print(comparison.table())`."""
        from ppvae.comparison.table import table

        return table(self)

    def figures(self) -> dict[str, Figure]:
        """By name, the figures that there is something for: curves, differences, gradients."""
        from ppvae.comparison.figures import figures

        return figures(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: everything that was measured, with units, versions and hashes."""
        return {
            "format": FORMAT,
            "pair": self.pair,
            "estimators": self.estimators,
            "baseline": self.baseline,
            "config": self.config,
            "training": self.training,
            "data": self.data,
            "environment": self.environment,
            "units": UNITS,
            "summary": [self.summary(name) for name in self.estimators] if self.cells else [],
            "differences": self._differences(),
            "cells": [cell.to_dict() for cell in self.cells],
            "laboratory": self.laboratory.to_dict() if self.laboratory else None,
        }

    def _differences(self) -> list[dict[str, Any]]:
        found = []
        for name in self.estimators[1:]:
            for metric in METRICS:
                difference = self.difference(name, metric)
                if difference is not None:
                    row = {"estimator": name, "minus": self.baseline, "metric": metric}
                    found.append({**row, **vars(difference)})
        return found

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Comparison:
        """What `to_dict` gave; what is computed from the rest is computed anew."""
        laboratory = saved["laboratory"]
        plain = ("pair", "estimators", "config", "training", "data", "environment")
        return cls(
            **{name: saved[name] for name in plain},
            cells=[Cell.from_dict(cell) for cell in saved["cells"]],
            laboratory=None if laboratory is None else Laboratory.from_dict(laboratory),
        )

    @classmethod
    def read(cls, path: str | Path) -> Comparison:
        """From a compare.json, or the folder that holds one."""
        path = Path(path)
        return cls.from_dict(
            strict_json.loads((path / "compare.json" if path.is_dir() else path).read_bytes())
        )

    def write(self, path: str | Path) -> Path:
        """Write compare.json, report.html and figures/*.png into a folder, which is made if need be.

        Raises:
            RunError: it cannot be written.
        """
        from ppvae.comparison.report import report
        from ppvae.plots.style import write as write_figure

        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        text = strict_json.dumps(self.to_dict(), "compare.json", indent=1)
        replace(path / "compare.json", f"{text}\n".encode())
        figures = self.figures()
        for stale in {"curves", "differences", "gradients"} - figures.keys():  # of what it held before
            (path / "figures" / f"{stale}.png").unlink(missing_ok=True)
        for name, figure in figures.items():
            write_figure(figure, path / "figures" / f"{name}.png", palette=True)
        report(self, figures).write(path / "report.html")
        return path

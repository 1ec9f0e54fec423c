"""A progress bar with the bound, steps per second and the time left; silent without a terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """`with Progress(total, done, wanted) as p: p.update(step, {"elbo": -95.1})`."""

    def __init__(self, total: int, done: int = 0, wanted: bool = True, label: str = ""):
        console = Console(stderr=True)
        self.shown = wanted and console.is_terminal
        self.first, self.started = done, time.monotonic()
        self.values: dict[str, float] = {}
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self.shown,
        )
        self.task = self.bar.add_task(label or "training", total=total, completed=done, values="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def update(self, step: int, values: dict[str, Any]) -> None:
        """Show the newest elbo and validation elbo, in nats per datum, and the speed so far."""
        self.values |= {k: values[k] for k in ("elbo", "valid_elbo") if k in values}
        rate = (step - self.first) / max(1e-9, time.monotonic() - self.started)
        names = {"elbo": "elbo", "valid_elbo": "valid"}
        shown = [f"{names[k]} {v:.2f} nats" for k, v in self.values.items()]
        self.bar.update(self.task, completed=step, values="  ".join([*shown, f"{rate:.0f} steps/s"]))

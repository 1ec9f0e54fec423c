"""What was found about the speed of a step, and how it is shown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ppvae.speed.counting import CompiledKernels, Counts
from ppvae.speed.timing import PARTS

NOT_ASKED = "compiling was not asked for"
WHAT = {
    "data": "rows gathered, and made into floats",
    "guide": "q(z | x): its net, and its draws",
    "model": "p(x, z): its net, at these latents",
    "objective": "log p, log q, and the bound",
    "backward": "the gradients of the losses",
    "optimizer": "is all finite? then the update",
}


@dataclass(frozen=True)
class Setting:
    """What was measured."""

    pair: str
    estimator: str
    particles: int
    batch: int
    data: str | None
    optimizer: str
    device: str
    threads: int
    dtype: str
    precision: str
    """In which the nets multiply."""


@dataclass(frozen=True)
class Times:
    """Seconds a step: medians."""

    parts: dict[str, float]
    """Of the eager step, by `PARTS`."""
    eager: float
    graph: float | None
    """None where there is no compiled graph."""
    compiling: float | None
    """Seconds that it took to compile, once; less where the compiler remembered the graph."""
    one_thread: float | None
    """The eager step on one CPU thread; None where it had one anyway."""


@dataclass(frozen=True)
class Floor:
    """Seconds a step that cannot be left out (`ppvae.speed.floor`)."""

    products: float
    update: float
    lower: float | None
    """The products in the next lower precision; None where the machine has none."""
    precision: str | None
    """Its name."""

    @property
    def total(self) -> float:
        return self.products + self.update


@dataclass(frozen=True)
class Speed:
    """Everything that `ppvae check PAIR --speed` finds."""

    setting: Setting
    counts: Counts
    compiled: CompiledKernels | None
    times: Times
    floor: Floor
    no_graph: str | None
    """Why there is no compiled graph; None where there is one."""
    advice: tuple[str, ...] = ()
    """What to change, the most valuable first, a line each."""

    @property
    def eager_over_floor(self) -> float:
        return self.times.eager / self.floor.total

    @property
    def graph_over_floor(self) -> float | None:
        return None if self.times.graph is None else self.times.graph / self.floor.total

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        ratios = {"eager_over_floor": self.eager_over_floor, "graph_over_floor": self.graph_over_floor}
        return {**dataclasses.asdict(self), **ratios}

    def render(self, console: Any = None) -> None:
        """Print all of it to a rich console, by default a new one on stdout."""
        from rich.console import Console
        from rich.text import Text

        console = console or Console()
        console.print(Text(_said(self.setting), style="bold"), soft_wrap=True)
        for table in (_whole_table(self), _parts_table(self)):
            console.print()
            console.print(table)
        console.print()
        for line in _notes(self):
            console.print(Text(line, style="dim"), soft_wrap=True)
        console.print(Text("\nwhat to change, the most valuable first", style="bold"))
        for number, line in enumerate(self.advice, 1):
            console.print(Text(f"{number}. {line}"), soft_wrap=True)
        if not self.advice:
            console.print(Text("nothing: no number above stands out"), soft_wrap=True)


def _said(setting: Setting) -> str:
    data = "no data" if setting.data is None else f"{setting.batch} of {setting.data} a batch"
    nets = "" if setting.precision == "float32" else f" with nets in {setting.precision}"
    threads = f", {setting.threads} thread{'s' * (setting.threads > 1)}" if setting.device == "cpu" else ""
    return (
        f"one training step of {setting.pair} by {setting.estimator}: {data}, K = {setting.particles}, "
        f"{setting.optimizer}, {setting.dtype}{nets}, {setting.device}{threads}"
    )


def _whole_table(speed: Speed) -> Any:
    counts, times, graph = speed.counts, speed.times, speed.times.graph
    table = _table("the whole step", ("eager", "graph"))

    def row(name: str, eager: str, compiled: str = "", unit: str = "") -> None:
        table.add_row(name, eager, compiled, unit)

    row("time", ms(times.eager), ms(graph), "ms")
    ratio = speed.graph_over_floor
    row(
        "time / floor",
        f"{speed.eager_over_floor:.2f}",
        "-" if ratio is None else f"{ratio:.2f}",
        f"floor: {ms(speed.floor.total)} ms",
    )
    batch = speed.setting.batch
    row("data a second", many(batch / times.eager), "-" if graph is None else many(batch / graph))
    row("kernels", many(counts.kernels), _compiled(speed), _kernel_note(speed))
    total = sum(wait.times for wait in counts.waits)
    # What waits and is no obstacle to a graph waits in it, too, or in the optimizer after it.
    row("synchronizations", str(total), "-" if counts.breaks else str(total), "waits for the device, a step")
    row(
        "graph breaks",
        "-",
        str(counts.breaks),
        "see below" if counts.breaks else "the whole step is one graph",
    )
    row("memory traffic", f"{counts.bytes / 1e6:,.1f}", "", "MB, read and written by eager kernels")
    row("arithmetic", f"{counts.flops / 1e6:,.1f}", "", f"MFLOP, in {counts.products} products")
    row("parameters", many(counts.parameters), "", "trained numbers")
    return table


def _products(counts: Counts) -> str:
    return f"the {counts.products} matrix products and convolutions"


def _compiled(speed: Speed) -> str:
    found = speed.compiled
    return "-" if found is None else many(found.fused + found.called)


def _kernel_note(speed: Speed) -> str:
    found = speed.compiled
    if found is None:
        return "calls of tensor code"
    rest = "" if found.whole else ", without the optimizer's"
    return f"graph: {found.fused} fused, {found.called} others{rest}"


def _parts_table(speed: Speed) -> Any:
    parts = speed.times.parts
    total = sum(parts.values())
    table = _table("parts of the eager step", ("ms", "share"))
    for part in PARTS:
        if parts[part] > 0:
            table.add_row(part, ms(parts[part]), f"{100 * parts[part] / total:.0f} %", WHAT[part])
    return table


def _table(title: str, columns: tuple[str, ...]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    return table


def _notes(speed: Speed) -> list[str]:
    floor, counts = speed.floor, speed.counts
    rate = f" ({counts.flops / floor.products / 1e9:.3g} GFLOP/s)" if counts.flops else ""
    notes = [
        "kernel: a call of tensor code that computes something, on a GPU a launch; a view is none",
        f"floor: {_products(counts)} alone, each by the fastest library, take {ms(floor.products)} ms{rate}; "
        f"one pass of the optimizer over all parameters takes {ms(floor.update)} ms; the rest is overhead",
    ]
    if speed.setting.estimator.startswith("pyro:"):
        notes.append(
            "objective: Pyro's losses differentiate by themselves, so that the backward pass is in it"
        )
    if counts.others:
        notes.append(f"not in FLOP and floor: what {', '.join(counts.others)} computes inside")
    if speed.times.graph is None:
        notes.append(f"no graph was timed: {speed.no_graph}")
    elif speed.times.compiling is not None:
        notes.append(
            "graph: the whole step, gradients and optimizer, as one piece of machine code; compiled in "
            f"{speed.times.compiling:.1f} s, less where the compiler has it in its cache"
        )
    return notes


def ms(seconds: float | None) -> str:
    """Milliseconds, three digits."""
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def many(number: float) -> str:
    """A number that one reads: 20,600."""
    return f"{round(number, -2):,.0f}" if number >= 1e4 and number % 1 else f"{number:,.0f}"

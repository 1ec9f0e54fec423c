"""Fill docs/scaling.md with what `scaling.py` found: every number there stands between two marks.

python benchmarks/scaling_page.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "results" / "scaling.json"
PAGE = ROOT / "docs" / "scaling.md"
SHOWN = ("2", "8", "64", "256")
"""The numbers of ranks in the tables."""
SHOWN_NETWORKS = {
    "this core": ("1 Gb/s Ethernet", "10 Gb/s Ethernet"),
    "accelerator": ("10 Gb/s Ethernet", "100 Gb/s InfiniBand", "NVLink"),
}
"""Of those in the record."""
Record = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def millions(parameters: float) -> str:
    return f"{parameters / 1e6:,.3g} M" if parameters < 1e9 else f"{parameters / 1e6:,.0f} M"


def interval(found: dict[str, float]) -> str:
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def measured(record: Record) -> str:
    seconds, said, batch = record["summary"]["seconds"], record["fits"]["said"], record["batch"]
    rows = []
    for times, one, two, of in (
        (1, "one", "two", "same batch"),
        (2, "one, doubled", "two, doubled", "doubled batch"),
    ):
        shown = [ms(x) for x in (seconds[one], said[one], seconds[two], said[two])]
        rows.append([f"{times * batch}", *shown, interval(record["summary"][of])])
    head = ["rows in all", "one, ms", "model", "two, ms", "model", "how many times as fast two are"]
    where, weak = record["environment"], _inverse(record["summary"]["as many rows a process"])
    return f"""\
The `vae` pair, {millions(record["parameters"]["two"])} parameters, eager,
torch {where["versions"]["torch"]}, one core of {where["cpu"]} a process;
medians of {record["rounds"]} rounds, and for the ratio the interval of 95 %:

{table(head, rows)}

With {batch} rows a process, two do twice the work of one in {interval(weak)} times the time."""


def _inverse(found: dict[str, float]) -> dict[str, float]:
    return {"ratio": 1 / found["ratio"], "low": 1 / found["high"], "high": 1 / found["low"]}


def all_reduce(record: Record) -> str:
    seconds, fits = record["summary"]["seconds"], record["fits"]
    sizes = [
        (int(name.split()[1]), value) for name, value in seconds.items() if name.startswith("all_reduce")
    ]
    latency, bandwidth = fits["network"]["latency"], fits["network"]["bandwidth"]
    rows = [[f"{n:,}", ms(value), ms(2 * (latency + n / (2 * bandwidth)))] for n, value in sizes]
    missed, apart = fits["largest_relative_error_of_all_reduce"], record["summary"]["separate over flat"]
    return f"""\
{table(["bytes", "gloo between two processes here, ms", "model"], rows)}

The model: latency {1e6 * latency:,.0f} us, {bandwidth / 1e9:.2f} GB/s, off by {100 * missed:.0f} % at
most. One all-reduce a tensor takes {interval(apart)} times as long as the flat one."""


def fits(record: Record) -> str:
    device, missed = record["fits"]["device"], record["fits"]["largest_relative_error"]
    accelerator, networks = record["assumed"]["accelerator"], record["assumed"]["networks"]
    rows = [[name, f"{1e6 * n['latency']:.0f}", f"{n['bandwidth'] / 1e9:g}"] for name, n in networks.items()]
    return f"""\
This core: {ms(device["overhead"])} ms a step, {1e9 * device["update"]:.2g} ns a parameter,
{1e12 * device["row"]:.3g} ps a parameter and row; through several sizes of net and batch, off by
{100 * missed:.0f} % at most. The accelerator is assumed: {accelerator["faster"]:,.0f} times as fast,
{ms(accelerator["overhead"])} ms a step. So are the networks:

{table(["network", "latency, us", "GB/s"], rows)}"""


def _rows(record: Record, cells: Callable[[Record], list[str]]) -> list[list[str]]:
    return [
        [found["device"], millions(found["parameters"]), found["network"], *cells(found)]
        for found in record["simulated"]
        if found["network"] in SHOWN_NETWORKS[found["device"]] and found["parameters"] < 1e9
    ]


HEAD = ["device", "parameters", "network"]


def steps(record: Record) -> str:
    def cells(found: Record) -> list[str]:
        sent = 2 * 4 * found["parameters"] / 1e6
        return [f"{sent:,.3g}", *(ms(found["seconds"][n]) for n in ("1", *SHOWN))]

    rows = {f["device"]: f["rows"] for f in record["simulated"]}
    said = f"{rows['this core']:,} on this core and {rows['accelerator']:,} on the accelerator"
    head = [*HEAD, "MB sent a step, up to", *(f"{n}, ms" for n in ("one", *SHOWN))]
    return f"Rows a rank: {said}.\n\n{table(head, _rows(record, cells))}"


def half(record: Record) -> str:
    def cells(found: Record) -> list[str]:
        batches = [f"{found['half_batch'][n]:,.0f}" for n in SHOWN]
        return [*batches, f"{found['most_ranks']} ({8 * found['rows']:,} rows)"]

    head = [*HEAD, *(f"{n} ranks" for n in SHOWN), "fastest number of ranks for a batch"]
    return table(head, _rows(record, cells))


def overlap(record: Record) -> str:
    def cells(found: Record) -> list[str]:
        return [f"{100 * found['overlap'][n]:+.0f} %" for n in SHOWN]

    shown = table([*HEAD, *(f"{n} ranks" for n in SHOWN)], _rows(record, cells))
    return f"In {record['assumed']['buckets']} messages:\n\n{shown}"


BLOCKS = {
    "measured": measured,
    "all_reduce": all_reduce,
    "fits": fits,
    "steps": steps,
    "half": half,
    "overlap": overlap,
}


def filled(text: str, record: Record) -> str:
    """The page with each block between its marks made anew.

    Raises:
        ValueError: a block has no marks in the page, or none of that name is known.
    """
    marks = re.findall(r"<!-- begin (\w+) -->", text)
    if sorted(marks) != sorted(BLOCKS):
        raise ValueError(f"the page has marks for {sorted(marks)}, and the blocks are {sorted(BLOCKS)}")
    for name, make in BLOCKS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{make(record)}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    PAGE.write_text(
        filled(PAGE.read_text(encoding="utf-8"), json.loads(RECORD.read_text())), encoding="utf-8"
    )
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()

"""What a compiled step would take without each of the things that make it faster, in turns with the step as
it is, in one process on one core.

    python benchmarks/ablations.py --out benchmarks/results/ablations.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from contestants import Field
from interleaved import ratio, rounds
from step_time import on_one_core
from timed_cases import cases

from ppvae.data import load
from ppvae.engine import rewriting
from ppvae.environment import environment

WITHOUT = {
    "mlp": ["faster_products", "cheaper_bernoulli", "gathered_once"],
    "iwae_5": ["faster_products", "cheaper_bernoulli"],
    "iwae_50": ["faster_products", "cheaper_bernoulli"],
    "conv_vae": ["faster_convolutions", "faster_products"],
    "recurrent": ["faster_products", "unflattened_sums"],
}
"""What is left out of `ppvae.engine.rewriting`, one thing at a time, in cases of `timed_cases.py`."""


@contextlib.contextmanager
def without(name: str | None) -> Iterator[None]:
    """Inside, graphs are rewritten without this step."""
    if name is None:
        yield
        return
    kept = getattr(rewriting, name)
    setattr(rewriting, name, lambda graph: None)
    try:
        yield
    finally:
        setattr(rewriting, name, kept)


def timed(name: str, pairs: int, batch: int = 128) -> dict[str, Any]:
    """Milliseconds of every round, and the time as it is over the time without each."""
    case = cases()[name]
    field = Field(case, load("digits"), torch.device("cpu"))
    order = torch.randperm(len(field.train), generator=torch.Generator().manual_seed(0))
    chunk = [order[i * batch : (i + 1) * batch] for i in range(case.steps)]
    running = {}
    for left_out in (None, *WITHOUT[name]):
        contestant = field.ours("graph")
        with without(left_out):
            contestant(chunk)
        running[left_out or "as it is"] = partial(contestant, chunk)
    found = rounds(running, pairs, torch.device("cpu"))
    milliseconds = {who: [s * 1e3 / case.steps for s in seconds] for who, seconds in found.items()}
    own = milliseconds["as it is"]
    return {
        "milliseconds": milliseconds,
        "ratios": {who: ratio(own, times) for who, times in milliseconds.items() if who != "as it is"},
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", nargs="+", choices=list(WITHOUT), default=list(WITHOUT))
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args(arguments)
    record: dict[str, Any] = {"environment": environment(), "rounds": options.pairs, "cases": {}}
    for name in options.case:
        record["cases"][name] = found = timed(name, options.pairs)
        print(f"{name}: {median(found['milliseconds']['as it is']):.2f} ms")
        for left_out, to in found["ratios"].items():
            print(f"  over that without {left_out}: {to['ratio']:.3f} [{to['low']:.3f}, {to['high']:.3f}]")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


if __name__ == "__main__":
    on_one_core()
    main()

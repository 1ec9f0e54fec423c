"""Which of several ways to compute the same is the fastest on this machine: measured once, then remembered.

A second run then rounds as the first one did. What is remembered lies beside the compiler's cache.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import cache

import torch

from ppvae.engine.costs import folder, write
from ppvae.environment import processor

GAIN = 0.9
"""Another way than the first, torch's own, is taken where it needs at most this share of its time."""
FILE = "fastest.json"

Ways = Mapping[str, Callable[[], object]]


def fastest(kind: object, ways: Callable[[], Ways]) -> tuple[str, float]:
    """The name of the fastest way, and the seconds that it spares.

    Args:
        kind: what is computed, of numbers and texts as JSON has them: shapes, strides, ...
        ways: makes them, torch's own first; called only where nothing is remembered.
    """
    key = json.dumps([kind, torch.get_num_threads(), *_machine()])
    known = _remembered()
    if key not in known:
        with torch.no_grad():
            known[key] = _measured(ways())
        write(folder() / FILE, known)
    return known[key]


def _measured(ways: Ways) -> tuple[str, float]:
    seconds = _shortest(ways)
    own, name = next(iter(ways)), min(seconds, key=seconds.__getitem__)
    name = name if seconds[name] <= GAIN * seconds[own] else own
    return name, seconds[own] - seconds[name]


def _shortest(ways: Ways, budget: float = 0.02) -> dict[str, float]:
    """The shortest of some runs of each, in seconds of this thread, taken in turns: whatever else goes on
    here makes a run longer, never shorter."""
    best = dict.fromkeys(ways, float("inf"))
    started, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() - started < budget:
        for name, way in ways.items():
            before = time.thread_time()
            way()
            best[name] = min(best[name], time.thread_time() - before)
        rounds += 1
    return best


@cache
def _machine() -> list[str]:
    return [str(torch.__version__), torch.backends.cpu.get_cpu_capability(), processor()]


@cache
def _remembered() -> dict[str, tuple[str, float]]:
    try:
        found = json.loads((folder() / FILE).read_text(encoding="utf-8"))
        return {key: (str(way), float(seconds)) for key, (way, seconds) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}

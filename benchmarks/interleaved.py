"""Times taken in turns: every contestant runs in every round, so that whatever slows the machine down meets
all of them, and a ratio is that of two times of one round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

Run = Callable[[], object]


def rounds(
    contestants: dict[str, Run], count: int, device: torch.device, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds of each contestant in each of `count` rounds; every round begins with another one."""
    names = list(contestants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for i in range(count):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            found[name].append(seconds(contestants[name], device, clock))
    return found


def seconds(run: Run, device: torch.device, clock: str = "wall") -> float:
    """Of one run: by device events on a GPU, with nothing left to do before it; else by the wall clock, or,
    where others want the core too, by the time that this process had it (`clock` = "cpu")."""
    if device.type != "cuda":
        now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
        started = now()
        run()
        return now() - started
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    run()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1e3


def ratio(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """The median over rounds of first / second, with its interval of 95 % or more between two order
    statistics."""
    found = sorted(a / b for a, b in zip(first, second, strict=True))
    low, high = order_statistics(len(found))
    return {"ratio": median(found), "low": found[low], "high": found[high]}


def order_statistics(n: int, coverage: float = 0.95) -> tuple[int, int]:
    """The places in n sorted values between which the median of their law lies with the wanted probability:
    1 - 2 P(Binomial(n, 1/2) <= k - 1) for the k-th from both ends; the ends where n is too small for it."""
    low, tail = 0, 0.0
    for k in range(n // 2):
        tail += math.comb(n, k) / 2**n
        if 1 - 2 * tail < coverage:
            break
        low = k
    return low, n - 1 - low

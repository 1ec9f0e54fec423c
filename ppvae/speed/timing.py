"""How long a step takes, and each of its parts: medians over repeats of all candidates in turn.

Machines are shared. What is to be compared is therefore timed in turn, a few steps each, and the median is
taken over all rounds: a disturbance hits all of them alike.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import torch

from ppvae.engine.eager import EagerStep
from ppvae.speed.subject import Subject

PARTS = ("data", "guide", "model", "objective", "backward", "optimizer")
ROUNDS = 7
"""At least so many, unless they would take ten times as long as was asked for."""
BLOCK = 0.03
"""Seconds that one candidate runs in a round."""

Measure = Callable[[int], Mapping[str, float]]
"""From a number of steps to seconds a step, by name."""
Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """The clock to read around what is timed. On one CPU thread it is that thread's own time, from which
    other programs take nothing; else the time that passes, with nothing left to do on the device."""
    if device.type == "cpu":
        return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def synchronized() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronized


def interleaved(measures: Mapping[str, Measure], seconds: float, together: bool = False) -> dict[str, float]:
    """The median of everything that the measures return; a round runs each of them for `BLOCK` seconds.

    Args:
        together: time the steps of a round as one, as a GPU wants it, which works them off while the next are
            being prepared; otherwise each by itself, so that the median sees which of them were disturbed.
    """
    blocks = {}
    for name, measure in measures.items():
        measure(1)  # warm
        started = time.perf_counter()
        measure(1)
        blocks[name] = max(1, int(BLOCK / (time.perf_counter() - started)))
    found: dict[str, list[float]] = {}
    started, rounds = time.perf_counter(), 0
    while _goes_on(time.perf_counter() - started, rounds, seconds):
        for name, measure in measures.items():
            measure(1)  # after another candidate the caches are cold
            for steps in (blocks[name],) if together else (1,) * blocks[name]:
                for key, value in measure(steps).items():
                    found.setdefault(key, []).append(value)
        rounds += 1
    return {key: median(values) for key, values in found.items()}


def _goes_on(spent: float, rounds: int, seconds: float) -> bool:
    return rounds == 0 or spent < seconds or (rounds < ROUNDS and spent < 10 * seconds)


def whole(subject: Subject, step: EagerStep, name: str) -> Measure:
    """Steps one after another, as training takes them, with nothing read in between."""
    batches, clock = itertools.cycle(subject.batches), clock_of(subject.device)

    def measure(steps: int) -> dict[str, float]:
        started = clock()
        for _ in range(steps):
            step(next(batches), subject.knobs)
        return {name: (clock() - started) / steps}

    return measure


def on_one_thread(measure: Measure) -> Measure:
    """The same on one CPU thread."""

    def alone(steps: int) -> Mapping[str, float]:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return measure(steps)
        finally:
            torch.set_num_threads(before)

    return alone


def parts(subject: Subject) -> Measure:
    """The parts of the eager step. The device is waited for at every seam, so that their sum may exceed the
    whole; what lies between the seams counts as `backward`."""
    batches, clock = itertools.cycle(subject.batches), clock_of(subject.device)

    def measure(steps: int) -> dict[str, float]:
        spent: dict[str, float] = dict.fromkeys(
            ("data", "guide", "model", "forward", "optimizer", "all"), 0.0
        )
        step = subject.eager
        seams: list[tuple[Any, str, str]] = [
            (step, "read", "data"),
            (subject.built, "run_guide", "guide"),
            (subject.built, "run_model", "model"),
            (subject.estimator, "estimate", "forward"),
            (step.updates, "finite", "optimizer"),
            (step.updates, "apply", "optimizer"),
        ]
        with ExitStack() as stack:
            for owner, name, part in seams:
                stack.enter_context(_timed(owner, name, spent, part, clock))
            started = clock()
            for _ in range(steps):
                step(next(batches), subject.knobs)
            spent["all"] = clock() - started
        found = {part: spent[part] for part in ("data", "guide", "model", "optimizer")}
        found["objective"] = spent["forward"] - spent["guide"] - spent["model"]
        found["backward"] = spent["all"] - spent["data"] - spent["forward"] - spent["optimizer"]
        return {part: found[part] / steps for part in PARTS}

    return measure


@contextmanager
def _timed(owner: Any, name: str, spent: dict[str, float], part: str, clock: Clock) -> Iterator[None]:
    """Inside, the method adds the seconds that it takes to `spent[part]`."""
    own, method = name in vars(owner), getattr(owner, name)

    def timed(*args: Any, **options: Any) -> Any:
        started = clock()
        try:
            return method(*args, **options)
        finally:
            spent[part] += clock() - started

    setattr(owner, name, timed)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, method)
        else:
            delattr(owner, name)

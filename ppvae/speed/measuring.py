"""`speed_of`: what a training step of a pair costs, where the time goes, and what to change."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from ppvae.config import TrainConfig
from ppvae.engine.program import Differentiated
from ppvae.pair import Pair
from ppvae.registry import find
from ppvae.speed import floor, timing
from ppvae.speed.advice import advice
from ppvae.speed.counting import CompiledKernels, Counts, compiled_kernels, counted
from ppvae.speed.recording import Operation, Recording
from ppvae.speed.report import NOT_ASKED, Floor, Setting, Speed, Times
from ppvae.speed.subject import Subject, subject
from ppvae.training import own_random_state, threads


def speed_of(
    pair: Pair | str,
    data: Any = None,
    *,
    config: TrainConfig | None = None,
    compile: bool = True,
    seconds: float = 4.0,
    **options: Any,
) -> Speed:
    """Count and time a training step: `speed_of("vae", estimator="iwae:particles=5", batch=256)`.

    Args:
        pair: a `Pair`, a name, or the place of one (`file.py:PAIR`).
        data: anything that `ppvae.data.load` takes; none: `config.data`, or the pair's own data set.
        config: how it is trained; none: the defaults with the pair's own. `options` are fields of it, and
            win.
        compile: compile the step, too, which takes 10 to 60 seconds the first time.
        seconds: how long to time; 7 rounds at least.

    Random states and thread numbers are left as they were; a `Pair` whose parts are built already is trained
    by the steps that are timed.

    Raises:
        PPVAEError: there is no such pair, no data for it, or they do not fit; in one line that says the fix.
    """
    config = TrainConfig.from_dict(dict(find(pair).train)) if config is None else config
    config = TrainConfig.from_dict({**config.to_dict(), **options})
    with threads(config.threads), own_random_state(config.seed):
        made = subject(pair, data, config)
        counts, seen, traced = counted(made)
        return _measured(made, counts, seen, traced if compile else None, seconds)


def counts_of(pair: Pair | str, data: Any = None, **options: Any) -> Counts:
    """What `speed_of` counts, without timing or compiling anything; `options` are those of `TrainConfig`."""
    config = TrainConfig.from_dict({**find(pair).train, **options})
    with threads(config.threads), own_random_state(config.seed):
        return counted(subject(pair, data, config))[0]


def _measured(
    made: Subject, counts: Counts, seen: Recording, traced: Differentiated | None, seconds: float
) -> Speed:
    compiled, compiling, no_graph = _compiled(made, traced)
    no_graph = counts.reason if counts.breaks else no_graph
    device, config = made.device, made.config
    eager = timing.whole(made, made.eager, "eager")
    measures = {"eager": eager, "parts": timing.parts(made)}
    if compiling is not None:
        measures["graph"] = timing.whole(made, made.graph, "graph")
    measures["products"] = floor.Products(seen.products).measure(device, "products")
    members = [p for group in made.eager.updates.groups.values() for p in group]
    measures["update"] = floor.optimizer(members, config.optimizer, device, "update")
    lower = floor.Products(seen.products, lower=True)
    if seen.products and lower.run():
        measures["lower"] = lower.measure(device, "lower")
    if device.type == "cpu" and torch.get_num_threads() > 1:
        alone = timing.whole(made, made.eager, "one_thread")
        measures["one_thread"] = timing.on_one_thread(alone)
    found = timing.interleaved(measures, seconds, together=device.type == "cuda")
    parts = {part: found[part] for part in timing.PARTS}
    times = Times(parts, found["eager"], found.get("graph"), compiling, found.get("one_thread"))
    bottom = Floor(found["products"], found["update"], found.get("lower"), _lower_name(seen.products))
    speed = Speed(_setting(made), counts, compiled, times, bottom, no_graph)
    return dataclasses.replace(speed, advice=advice(speed, made))


def _compiled(
    made: Subject, traced: Differentiated | None
) -> tuple[CompiledKernels | None, float | None, str | None]:
    """(its kernels, seconds of compiling, None), or (None, None, why there is no graph)."""
    if traced is None:
        return None, None, NOT_ASKED
    given, knobs, step = made.batches[-1], made.knobs, made.graph
    started = time.perf_counter()
    if not step.compiled(traced, given, knobs):
        return None, None, step.reason
    spent = time.perf_counter() - started
    step(given, knobs)
    program = step.active
    return (None if program is None else compiled_kernels(program)), spent, None


def _lower_name(products: list[Operation]) -> str | None:
    kinds = {o.out.dtype for o in products if hasattr(o.out, "dtype")}
    named = [floor.LOWER[kind] for kind in kinds if kind in floor.LOWER]
    return str(named[0]).removeprefix("torch.") if named else None


def _setting(made: Subject) -> Setting:
    return Setting(
        pair=made.pair.name or getattr(made.pair.model, "__name__", "pair"),
        estimator=made.config.estimator,
        particles=made.estimator.particles,
        batch=made.rows,
        data=None if made.dataset is None else made.dataset.name,
        optimizer=made.config.optimizer,
        device=str(made.device),
        threads=torch.get_num_threads(),
        dtype=str(made.built.dtype).removeprefix("torch."),
        precision=made.config.precision,
    )

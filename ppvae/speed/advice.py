"""What to change: one line each, with the numbers that it rests on, and only where they say so."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ppvae.speed.counting import Latent, Wait
from ppvae.speed.report import NOT_ASKED, Speed, many, ms
from ppvae.speed.subject import Subject
from ppvae.speed.waiting import BACKWARD, CHECKED

OVERHEAD = 1.5
"""Eager over floor, above which the step is bound by what is neither product nor optimizer."""
DATA_SHARE = 0.15
PRODUCT_SHARE = 0.5
LATENT_SHARE = 0.2
GAIN = 0.95
"""What is timed at more than this share of the time before saves nothing worth a line."""

REMEDY = {"float32": "give the data as float32", "bfloat16": "--precision bf16"}
"""How to have products in a lower precision."""

Valued = tuple[float, str]
"""Seconds a step that it may save, by which the lines are sorted; and the line."""


def advice(speed: Speed, subject: Subject) -> tuple[str, ...]:
    """The lines, the most valuable first."""
    found = [*_waits(speed, subject), *_no_graph(speed), *_threads(speed), *_particles(speed, subject)]
    if not any(_threads(speed)):  # threads in each other's way slow down all, the floor as well
        found += [*_graph(speed), *_data(speed, subject), *_latents(speed), *_products(speed)]
    return tuple(text for _, text in sorted(found, key=lambda line: -line[0]))


def _waits(speed: Speed, subject: Subject) -> Iterator[Valued]:
    if subject.config.estimator.startswith("pyro:") and speed.counts.waits:
        total = sum(wait.times for wait in speed.counts.waits)
        yield (
            math.inf,
            f"{subject.config.estimator} waits for the device {total} times a step, since Pyro's losses read "
            "numbers back: use elbo, or another of ours",
        )
        return
    lines: dict[str, int] = {}
    for wait in speed.counts.waits:
        line = f"{wait.place}: {_waited(wait, speed.setting.optimizer)}"
        lines[line] = lines.get(line, 0) + wait.times
    forward = [line for line in lines if not line.startswith(BACKWARD)]
    for line in forward or lines:  # the backward pass waits where the forward pass did
        costs_nothing = "torch.linalg" in line and speed.setting.device == "cpu"
        times = "" if lines[line] == 1 else f" ({lines[line]} times a step)"
        yield 0.0 if costs_nothing else math.inf, line + times


def _waited(wait: Wait, optimizer: str) -> str:
    if "ppvae/engine/updates.py:" in wait.place:
        return f"torch has no {optimizer} that skips a bad step without asking: --optimizer adam"
    if wait.name == CHECKED:
        return (
            "torch.linalg asks whether it succeeded, for which a GPU is waited for: call cholesky_ex, "
            "solve_ex or inv_ex, which do not ask; give a distribution its scale_tril"
        )
    if wait.name.startswith(("_local_scalar_dense", "item", "is_nonzero")):
        return (
            "a number is read off a tensor (.item(), float(), bool(), if): keep it a tensor, and choose by "
            "torch.where"
        )
    if wait.name == "equal":
        return "torch.equal is waited for: keep (a == b).all() a tensor"
    if wait.name in ("_to_copy", "copy_"):
        return "a tensor goes from the device to the CPU: leave it on the device"
    return (
        "the shape of a tensor depends on its numbers (a boolean index, nonzero, unique): keep all entries, "
        "and choose by torch.where, or by a product with the mask"
    )


def _no_graph(speed: Speed) -> Iterator[Valued]:
    """What waits cannot be in a graph, and has its line already."""
    if speed.no_graph not in (None, NOT_ASKED) and not (speed.counts.breaks and speed.counts.waits):
        yield math.inf, f"there is no compiled graph: {speed.no_graph}"


def _graph(speed: Speed) -> Iterator[Valued]:
    times = speed.times
    over = times.eager - speed.floor.total
    bound = f"{ms(over)} of {ms(times.eager)} ms are overhead"
    if times.graph is None:
        if speed.eager_over_floor < OVERHEAD:
            return
        if speed.no_graph == NOT_ASKED:
            yield (
                over,
                f"{bound}: --engine graph fuses kernels, without --no-compile this command says how far",
            )
        else:
            yield (
                over / 2,
                f"{bound}, most of it the same for any batch: a larger --batch has less of it a datum",
            )
    elif times.graph < GAIN * times.eager:
        saved = times.eager - times.graph
        steps = (
            "" if times.compiling is None else f", which pays from step {many(times.compiling / saved)} on"
        )
        yield (
            saved,
            f"--engine graph: a step takes {ms(times.graph)} ms for {ms(times.eager)} "
            f"({times.graph / times.eager:.2f}){steps}; auto, the default, does it by itself in long runs",
        )


def _threads(speed: Speed) -> Iterator[Valued]:
    alone, eager = speed.times.one_thread, speed.times.eager
    if alone is not None and alone < GAIN * eager:
        yield (
            eager - alone,
            f"--threads 1: the eager step takes {ms(alone)} ms for {ms(eager)} on {speed.setting.threads} "
            "threads, which have too little to share, or too few cores; then look again",
        )


def _particles(speed: Speed, subject: Subject) -> Iterator[Valued]:
    k, parts = speed.setting.particles, speed.times.parts
    if k == 1 or subject.built.vectorize:
        return
    share = sum(parts[name] for name in ("guide", "model", "objective"))
    why = (
        "as Pair(vectorize=False) says: where the nets take leading dimensions, leave that out"
        if subject.pair.vectorize is False
        else "since a BatchNorm would mix them: GroupNorm takes all at once"
    )
    yield (
        share * (1 - 1 / k),
        f"the {k} particles run one after another, {ms(share)} ms forward for all, {why}",
    )


def _data(speed: Speed, subject: Subject) -> Iterator[Valued]:
    parts = speed.times.parts
    share = parts["data"] / sum(parts.values())
    if share < DATA_SHARE:
        return
    dynamic = subject.dataset is not None and subject.dataset.train.dynamic
    what = (
        "the bits of each batch are drawn anew: --binarization static draws them once"
        if dynamic
        else "the rows of the batch are gathered, and made into floats: a larger --batch, or smaller data"
    )
    yield parts["data"], f"{100 * share:.0f} % of the eager step, {ms(parts['data'])} ms, go by while {what}"


def _latents(speed: Speed) -> Iterator[Valued]:
    """Of all latents of one law, where they are a good part of the kernels, and kernels are what is slow."""
    if speed.eager_over_floor < OVERHEAD:
        return
    laws: dict[str, list[Latent]] = {}
    for latent in speed.counts.latents:
        laws.setdefault(latent.law, []).append(latent)
    for law, members in laws.items():
        kernels = sum(latent.kernels for latent in members)
        share = kernels / speed.counts.kernels
        if share < LATENT_SHARE:
            continue
        who = f"latent {members[0].name!r}, a {law}, makes"
        if len(members) > 1:
            who = f"{len(members)} latents such as {members[0].name!r}, each a {law}, make"
        fix = "a graph fuses them" if not speed.counts.breaks else "a simpler law has fewer"
        yield (
            share * (speed.times.eager - speed.floor.total),
            f"{who} {kernels} of {speed.counts.kernels} kernels, for the draw, log q and log p, and about as "
            f"many again in the backward pass: {fix}",
        )


def _products(speed: Speed) -> Iterator[Valued]:
    floor = speed.floor
    best = min(speed.times.eager, speed.times.graph or math.inf)
    if floor.products < PRODUCT_SHARE * best:
        return
    bound = f"matrix products and convolutions alone are {100 * floor.products / best:.0f} % of the step"
    if floor.lower is not None and floor.precision and floor.lower < 0.8 * floor.products:
        yield (
            floor.products - floor.lower,
            f"{bound}: {REMEDY[floor.precision]}, in which they take {ms(floor.lower)} ms for "
            f"{ms(floor.products)}",
        )
    else:
        yield 0.0, f"{bound}: only smaller nets (--sizes) are faster here"

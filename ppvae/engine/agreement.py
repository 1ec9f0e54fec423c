"""Whether a traced step does what the eager one does, on a batch and knobs that it was not traced with.

Tracing freezes whatever Python had in its hands: a float, a dropout flag, a random number of numpy. A replay
that differs in one bit has lost something; what is compiled may differ by rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.engine.eager import Differentiate
from ppvae.engine.program import Differentiated, Halves, Whole

ROUNDING = {"float32": 1e-4, "tf32": 1e-3, "bf16": 2e-2}
"""By precision: how far a compiled step may lie from the eager one, relative to the largest entry of each
tensor. It adds in another order, and rounds to bf16 in fewer places."""
DRAWS = 3
"""How often it may try to agree."""


def replay_differs(
    traced: Differentiated,
    compute: Differentiate,
    buffers: Mapping[str, Tensor],
    given: Any,
    knobs: Mapping[str, Tensor],
) -> str | None:
    """What a replay of the flat graph gets otherwise than `compute`, in a word; None: nothing, bit by bit."""
    moved = {name: value * 0.9 if value.is_floating_point() else value for name, value in knobs.items()}
    with _rehearsal(buffers), pyro.validation_enabled(False):
        scalars, found = compute(given, moved)
        after = [buffer.clone() for buffer in buffers.values()]
    moving = {id(b) for b, value in zip(buffers.values(), after, strict=True) if not _equal(b, value)}
    traced.buffers = [buffer for buffer in traced.buffers if id(buffer) in moving]
    with _rehearsal(buffers):
        replayed, gradients = traced(given, moved)
        for (name, buffer), wanted in zip(buffers.items(), after, strict=True):
            if not _equal(buffer, wanted):
                return f"the buffer {name}"
    if [id(p) for p, _ in found] != [id(p) for p, _ in gradients]:
        return "which parameters have a gradient"
    for i, ((_, wanted), (_, gradient)) in enumerate(zip(found, gradients, strict=True)):
        if not _equal(gradient, wanted):
            return f"the gradient of the parameter {i + 1} of {len(found)}"
    return next((name for name, value in scalars.items() if not _equal(replayed[name], value)), None)


def compiled_differs(
    program: Halves | Whole,
    buffers: Mapping[str, Tensor],
    given: Any,
    knobs: Mapping[str, Tensor],
    rounding: float = ROUNDING["float32"],
) -> str | None:
    """What the compiled step moves otherwise than the same operations one by one, beyond rounding.

    Where a ReLU's input is zero up to rounding, the two may take different sides, and differ by all that
    hangs on it. A compiler's error shows with every draw of the latents and at every parameter, this does
    not: one of `DRAWS`, each at parameters nearby, has to agree.
    """
    found: list[str | None] = []
    while None not in found and len(found) < DRAWS:
        states = []
        for call in (program.call, program.step):
            state = _nearby(program, _well_conditioned(program), len(found))
            with _rehearsal(buffers):
                torch.manual_seed(len(found))
                states.append([*program.run(call, state, given, knobs, 1.0), *state])
        pairs = list(zip(*states, _least_scales(program, states[1]), strict=True))
        found.append(
            next((_described(*pair) for pair in pairs if not _close(*pair, rounding)), None)  # type: ignore[arg-type]
        )
    return None if None in found else found[0]


def _well_conditioned(program: Halves | Whole) -> list[Tensor]:
    """A copy of what the step moves, with equal second moments for all parameters: Adam divides by their
    root, and of a gradient that is zero up to rounding it makes whole steps of the rounding."""
    if isinstance(program, Halves):
        return [tensor.clone() for tensor in program.held]
    seconds = {id(t) for moments in program.moments.values() for t in moments.second}
    typical = max((float(t.mean()) for t in program.held if id(t) in seconds), default=0.0)
    return [torch.full_like(t, typical) if id(t) in seconds else t.clone() for t in program.held]


def _nearby(program: Halves | Whole, state: list[Tensor], draw: int) -> list[Tensor]:
    """The state with parameters that are a thousandth of their own size away; the first draw as it is."""
    generator = torch.Generator().manual_seed(draw)
    parameters = {id(parameter) for parameter in program.differentiated.parameters}
    for held, copy in zip(program.differentiated.flat.held, state, strict=False):
        if draw and id(held) in parameters:
            noise = torch.randn(copy.shape, generator=generator, dtype=copy.dtype)
            copy.mul_(1.0 + 1e-3 * noise.to(copy.device))
    return state


def _least_scales(program: Halves | Whole, state: list[Tensor]) -> list[float]:
    """What each tensor is measured by at least: gradients and their means by a hundredth of the largest one
    of all, since the gradient of a bias before a BatchNorm is nothing but rounding."""
    if isinstance(program, Halves):
        first = len(program.differentiated.names)
        alike = set(range(first, first + len(program.differentiated.parameters)))
    else:
        firsts = {id(t) for moments in program.moments.values() for t in moments.first}
        start = len(state) - len(program.held)
        alike = {start + i for i, tensor in enumerate(program.held) if id(tensor) in firsts}
    largest = max((float(state[i].abs().max()) for i in alike if state[i].numel()), default=0.0)
    return [0.01 * largest if i in alike else 0.0 for i in range(len(state))]


def _described(value: Tensor, wanted: Tensor, least: float) -> str:
    return f"a tensor of shape {tuple(wanted.shape)}, by {_distance(value, wanted, least):.1e}"


@contextlib.contextmanager
def _rehearsal(buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, a step may draw and write to buffers; after, all is as before."""
    before = [buffer.clone() for buffer in buffers.values()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for buffer, value in zip(buffers.values(), before, strict=True):
            buffer.copy_(value)


def _equal(a: Tensor, b: Tensor) -> bool:
    same = (a == b) | (a.isnan() & b.isnan()) if a.is_floating_point() else a == b
    return a.shape == b.shape and bool(same.all())


def _close(a: Tensor, b: Tensor, least: float, rounding: float) -> bool:
    if not a.is_floating_point() or not b.numel():
        return _equal(a, b)
    return bool((a.isnan() == b.isnan()).all()) and _distance(a, b, least) <= rounding


def _distance(a: Tensor, b: Tensor, least: float) -> float:
    """max |a - b| / max |b|, where both are finite; b's largest entry counts as `least` at least."""
    both = a.isfinite() & b.isfinite()
    a, b = torch.where(both, a, 0).double(), torch.where(both, b, 0).double()
    return float((a - b).abs().max() / b.abs().max().clamp(min=max(least, 1e-30)))

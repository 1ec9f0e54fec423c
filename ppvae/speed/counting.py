"""What there is to count in a step: the same on every machine, whatever it is doing beside."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro

from ppvae.engine.cudagraph import Captured
from ppvae.engine.program import Differentiated, Halves, Whole
from ppvae.speed.recording import Recording, record
from ppvae.speed.subject import Subject
from ppvae.terms import Site
from ppvae.wrapped import innermost


@dataclass(frozen=True)
class Wait:
    """An operation that waits for the device, and the line of code that led to it."""

    name: str
    place: str
    times: int
    """In one step."""


@dataclass(frozen=True)
class Latent:
    """What the distributions of one latent ask of torch: its draw, its log q and its log p, forward alone."""

    name: str
    law: str
    kernels: int


@dataclass(frozen=True)
class Counts:
    """Of one step of training, optimizer included, after the first, which Pyro validates."""

    waits: tuple[Wait, ...]
    breaks: int
    """0 where the step is one flat graph, 1 where it is none."""
    reason: str | None
    """Why it is none."""
    kernels: int
    """Calls of tensor code, one operation each, that compute something; views are none."""
    products: int
    """Matrix products and convolutions among them."""
    flops: int
    """Floating point operations of these products."""
    bytes: int
    """Memory that all kernels read and write."""
    parameters: int
    """Trained numbers."""
    latents: tuple[Latent, ...]
    others: tuple[str, ...]
    """Operations with products inside that are not counted, such as whole recurrent layers."""


def counted(subject: Subject) -> tuple[Counts, Recording, Differentiated | None]:
    """The counts of a step, what it asked of torch, and its flat graph."""
    given, knobs = subject.batches[-1], subject.knobs
    seen = record(subject.eager, given, knobs)
    traced = subject.graph.traced(given, knobs)
    members = [p for group in subject.eager.updates.groups.values() for p in group]
    layers = {o.name for o in seen.operations if "_rnn" in o.name or "rnn_" in o.name}
    counts = Counts(
        waits=tuple(Wait(name, place, times) for (name, place), times in seen.waits.items()),
        breaks=int(traced is None),
        reason=subject.graph.reason,
        kernels=len(seen.kernels),
        products=len(seen.products),
        flops=seen.flops,
        bytes=seen.bytes,
        parameters=sum(parameter.numel() for parameter in members),
        latents=_latents(subject),
        others=tuple(sorted(layers)),
    )
    return counts, seen, traced


def _latents(subject: Subject) -> tuple[Latent, ...]:
    with pyro.validation_enabled(False):
        sites = subject.built.score(subject.read()).sites.values()
        times = 1 if subject.built.vectorize else subject.estimator.particles
        return tuple(
            Latent(site.name, type(innermost(site.q)).__name__, times * _kernels(site))
            for site in sites
            if site.q is not None and site.how != "enumerate"
        )


def _kernels(site: Site) -> int:
    q: Any = site.q

    def again() -> None:
        (q.rsample if q.has_rsample else q.sample)()
        for law in (q, site.p):
            if law is not None:
                law.log_prob(site.value)

    return len(record(again).kernels)


@dataclass(frozen=True)
class CompiledKernels:
    """What the compiler made of a step."""

    fused: int
    """Kernels that it wrote, each of many operations."""
    called: int
    """Kernels that it calls as they are: matrix products, convolutions, random numbers."""
    whole: bool
    """Whether the optimizer is in the graph; if not, its kernels are not counted here."""


WRITTEN = re.compile(r"^\s+(?:cpp_\w+\(|triton_\w+\.run\()", re.MULTILINE)
CALLED = re.compile(r"^\s+(?:\w+ = )?(?:extern_kernels|torch\.ops)\.[\w.]+\(", re.MULTILINE)


def compiled_kernels(program: Halves | Whole | Captured) -> CompiledKernels | None:
    """Counted in the compiler's own text; None where there is none to read."""
    program = program.program if isinstance(program, Captured) else program
    text = source_of(program.call)
    if text is None:
        return None
    return CompiledKernels(
        len(WRITTEN.findall(text)), len(CALLED.findall(text)), whole=isinstance(program, Whole)
    )


def source_of(call: Callable[..., Any]) -> str | None:
    """The Python text that a compiled graph runs; torch keeps it where no documented name leads to."""
    text = getattr(getattr(call, "_compiled_fn", None), "source_code", None)
    return text if isinstance(text, str) and text else None

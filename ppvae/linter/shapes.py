"""Batch and event shapes: nothing broadcasts silently."""

from __future__ import annotations

import torch

from ppvae.linter.explain import explain
from ppvae.linter.record import Record, Run
from ppvae.linter.subject import Subject, take


def latents(subject: Subject) -> None:
    """A latent has one event shape in model and guide; compared before the model sees the guide's draws."""
    for name, q in subject.guide.sites.items():
        p = subject.model.sites.get(name)
        if p is None:
            continue
        theirs, mine = tuple(p.fn.event_shape), tuple(q.fn.event_shape)
        swallowed = [_swallowed(subject, site, run) for site, run in ((q, subject.guide), (p, subject.model))]
        if any(swallowed):
            continue
        uncovered = [(s, _uncovered(s)) for s in (q, p)]
        for site, dims in uncovered:
            if dims:
                _report_uncovered(subject, site, dims[0], subject.rows)
        if not any(dims for _, dims in uncovered) and mine != theirs:
            subject.error(
                "event-shape",
                f"latent {name!r} has event_shape {mine} in the guide and {theirs} in the model (line "
                f"{p.place.line})",
                q.place,
                "give both the same sizes and the same .to_event(n)"
                if len(mine) != len(theirs)
                else f"make the guide's distribution of event_shape {theirs}",
                name,
            )


def _swallowed(subject: Subject, site: Record, run: Run) -> bool:
    """Whether the rows, for which the plate stands, are part of the event; if so, it is reported."""
    event, count = tuple(site.fn.event_shape), subject.rows
    if not site.in_data or not event or event[0] != count or count < 3:
        return False
    fewer = subject.run(run.role, take(subject.inputs, count - 1)).sites.get(site.name)
    if fewer is not None and fewer.fn.event_shape[:1] != (count - 1,):
        return False
    cut = len(event) - 1
    subject.error(
        "to-event",
        f".to_event({len(event)}) at site {site.name!r} of the {site.role} takes the rows of the batch "
        f"into the event, event_shape {event}, although the plate 'data' stands for them",
        site.place,
        f"write .to_event({cut})" if cut else "leave out .to_event(1)",
        site.name,
    )
    return True


def replay(subject: Subject) -> None:
    """Replay the model at the guide's draws: the run that all later checks look at."""
    subject.model = subject.run("model", subject.inputs, latents=subject.guide.latents)
    if subject.model.error is not None:
        explain(subject, subject.model, subject.inputs, "replay")
        return
    check(subject, subject.model, subject.rows)


def check(subject: Subject, run: Run, count: int) -> None:
    """Every batch dim lies in a plate, and an observation has the shape of its distribution."""
    for site in run.sites.values():
        if site.observed and (_swallowed(subject, site, run) or not _observation(subject, site)):
            continue
        dims = _uncovered(site)
        if dims:
            _report_uncovered(subject, site, dims[0], count)


def _uncovered(site: Record) -> list[tuple[int, int]]:
    """(dim, size) of the batch dims that lie in no plate, leftmost last."""
    covered = {f.dim for f in site.frames if f.vectorized}
    shape = tuple(site.fn.batch_shape)
    dims = range(-1, -1 - len(shape), -1)
    return [(dim, shape[dim]) for dim in dims if shape[dim] != 1 and dim not in covered]


def _report_uncovered(subject: Subject, site: Record, found: tuple[int, int], count: int) -> None:
    dim, size = found
    shape = tuple(site.fn.batch_shape)
    if size == count and dim == -1:
        subject.error(
            "outside-plate",
            f"site {site.name!r} of the {site.role} has one entry per datum, batch_shape {shape}, outside "
            "the plate 'data'",
            site.place,
            'move it into `with pyro.plate("data", rows, dim=-1):`',
            site.name,
        )
        return
    if site.in_data and size == count:
        subject.error(
            "broadcast",
            f"site {site.name!r} of the {site.role} has rows twice, batch_shape {shape}: a parameter of "
            f"shape ({count}, 1) was broadcast against the plate of {count}",
            site.place,
            "squeeze the parameters to the shape of the data, loc.squeeze(-1), or make the last dim an "
            "event, .to_event(1)",
            site.name,
        )
        return
    subject.error(
        "to-event",
        f"site {site.name!r} of the {site.role} has size {size} at batch dim {dim}, in no plate "
        f"(batch_shape {shape})",
        site.place,
        f"add .to_event({max(1, len(shape) - 1)}), or a plate there and Pair(plates={-dim})",
        site.name,
    )


def _observation(subject: Subject, site: Record) -> bool:
    """Compare an observed value with what scores it; False where that was reported."""
    value, fn = site.value, site.fn
    if not isinstance(value, torch.Tensor):
        return True
    event = tuple(fn.event_shape)
    cut = value.dim() - len(event)
    seen, batch, shape = (
        tuple(value.shape[max(cut, 0) :]),
        tuple(value.shape[: max(cut, 0)]),
        tuple(fn.batch_shape),
    )
    if cut < 0 or seen != event:
        subject.error(
            "event-shape",
            f"observed site {site.name!r}: the data have shape {tuple(value.shape)}, the distribution "
            f"batch_shape {shape} and event_shape {event}",
            site.place,
            f"reshape one of them, so that each datum has the shape {event}: "
            f"{_reshape(tuple(value.shape[1:]), event)}",
            site.name,
        )
        return False
    plates = subject.pair.plates
    try:
        together = torch.broadcast_shapes(batch, shape)
    except RuntimeError:
        together = None
    wanted = tuple(together[len(together) - len(batch) :]) if together is not None and batch else ()
    covered = {f.dim for f in site.frames if f.vectorized}
    stray = (
        []
        if together is None
        else [d for d in range(-len(together), 0) if together[d] != 1 and d not in covered]
    )
    if together is None or batch[-plates:] != wanted[-plates:] or stray:
        # A distribution of its own uncovered dims and no more is a missing to_event, reported as that.
        if together is not None and together == shape and batch == shape:
            return True
        subject.error(
            "broadcast",
            f"observed site {site.name!r}: data of batch shape {batch} are scored by a distribution of "
            f"batch_shape {shape}, which broadcasts silently"
            + (f" to {tuple(together)}" if together is not None else ""),
            site.place,
            "give both one shape: .squeeze(-1) the parameters, or make the last dim of both an event, "
            ".to_event(1)",
            site.name,
        )
        return False
    return True


def _reshape(data: tuple[int, ...], event: tuple[int, ...]) -> str:
    if len(event) == 1 and len(data) != 1:
        return "x.flatten(1), or unflatten loc to the shape of x"
    if len(event) < len(data):
        return f"the distribution needs .to_event({len(data)})"
    return "unflatten or flatten"

"""The plates: one called data around all that is per datum, deeper ones as declared."""

from __future__ import annotations

from typing import Any

from ppvae.linter import places
from ppvae.linter.record import Record, Run
from ppvae.linter.statements import plate_size
from ppvae.linter.subject import Subject
from ppvae.tracing import DATA_PLATE


def plates(subject: Subject) -> None:
    """One plate called data at dim -1 around all that is per datum; deeper ones as Pair(plates=) says."""
    if not subject.inputs:
        return  # a model without data: its one row is the whole model
    for run in (subject.model, subject.guide):
        for record in run.of("plate"):
            plate_size(subject, record, subject.rows)
    if subject.report.ok:
        _data_plate(subject)
    if subject.report.ok:
        _same_plates(subject)
    if subject.report.ok:
        _depth(subject)


def _data_plate(subject: Subject) -> None:
    count = subject.rows
    for role, run in (("model", subject.model), ("guide", subject.guide)):
        sites = [*run.sites.values(), *run.of("factor")]
        for site in sites:
            frame = next((f for f in site.plates if f.name == DATA_PLATE), None)
            if frame is not None and frame.dim != -1:
                subject.error(
                    "plate-dim",
                    f"the plate 'data' of the {role} lies at dim {frame.dim}",
                    _plate_place(run, DATA_PLATE, site),
                    'write pyro.plate("data", rows, dim=-1); further plates lie to its left, at dim=-2, '
                    "-3, ...",
                    DATA_PLATE,
                )
                return
        if not sites or any(site.in_data for site in sites):
            continue
        local = [s for s in sites if role == "model" or _is_local(subject, s.name)]
        if not local:
            continue
        named = [f for s in local for f in s.plates if f.dim == -1 and f.size == count]
        if named:
            subject.error(
                "plate-name",
                f"the plate around the data is called {named[0].name!r} in the {role}",
                _plate_place(run, named[0].name, local[0]),
                'call it "data": pyro.plate("data", rows, dim=-1)',
                named[0].name,
            )
        else:
            subject.error(
                "data-plate",
                f"site {local[0].name!r} of the {role}, and every other, lies in no plate called 'data'",
                local[0].place,
                'wrap what is per datum in `with pyro.plate("data", rows, dim=-1):`',
                local[0].name,
            )
        return


def _plate_place(run: Run, name: str, site: Record) -> Any:
    return next((r.place for r in run.of("plate") if r.name == name), site.place)


def _is_local(subject: Subject, name: str) -> bool:
    other = subject.model.sites.get(name)
    return other is not None and other.in_data


def _same_plates(subject: Subject) -> None:
    for name in subject.pair.observed:
        site = subject.model.sites.get(name)
        if site is not None and not site.in_data:
            subject.error(
                "outside-plate",
                f"observed field {name!r} is scored outside the plate 'data'",
                site.place,
                'move it into `with pyro.plate("data", rows, dim=-1):`, so that each datum has its own log p',
                name,
            )
    for name, q in subject.guide.sites.items():
        p = subject.model.sites.get(name)
        if p is None:
            continue
        mine, theirs = ({f.name for f in site.plates} for site in (q, p))
        if mine == theirs:
            continue
        plate = sorted(mine ^ theirs)[0]
        outside, inside = (q, p) if plate in theirs else (p, q)
        subject.error(
            "outside-plate" if plate == DATA_PLATE else "plates-differ",
            f"site {name!r} lies in the plate {plate!r} in the {inside.role} (line {inside.place.line}) "
            f"but not in the {outside.role}",
            outside.place,
            f"move it into the plate {plate!r} there, if it is per "
            f"{'datum' if plate == DATA_PLATE else plate}, or out of it in both, if all share one draw",
            name,
        )


def _depth(subject: Subject) -> None:
    sites = [*subject.model.sites.values(), *subject.guide.sites.values()]
    frames = [(f, s) for s in sites for f in s.plates]
    deepest, site = min(frames, key=lambda pair: pair[0].dim, default=(None, None))
    if deepest is None or site is None:
        return
    declared, needed = subject.pair.plates, -deepest.dim
    if needed > declared:
        subject.error(
            "plates",
            f"the plate {deepest.name!r} lies at dim {deepest.dim}, but Pair(plates={declared}) leaves "
            f"{declared}",
            site.place,
            f"write Pair(plates={needed})",
            deepest.name,
        )
    elif needed < declared:
        subject.warn(
            "plates",
            f"Pair(plates={declared}) declares more plate dimensions than the {needed} in use",
            places.of_pair(subject.pair, "plates"),
            f"write Pair(plates={needed})",
        )

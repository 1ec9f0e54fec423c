"""The first runs of the two programs, and the same sites in every run after them."""

from __future__ import annotations

from ppvae.linter.explain import explain
from ppvae.linter.record import Run
from ppvae.linter.statements import duplicates, loop, plate_size
from ppvae.linter.subject import Subject, take


def first_runs(subject: Subject) -> None:
    """Run the guide, then the model with its own draws: a latent that does not fit cannot mask its cause."""
    subject.guide = subject.run("guide", subject.inputs)
    if subject.guide.error is not None:
        explain(subject, subject.guide, subject.inputs)
        return
    if not loop(subject, subject.guide):
        duplicates(subject, subject.guide)
    subject.model = subject.run("model", subject.inputs)
    if subject.model.error is not None:
        explain(subject, subject.model, subject.inputs)
        return
    if not loop(subject, subject.model):
        duplicates(subject, subject.model)


def stable(subject: Subject) -> None:
    """The same sites in every run."""
    inputs = subject.inputs
    for shift in (1, 2, 3, 4):
        for role, first in (("guide", subject.guide), ("model", subject.model)):
            again = subject.run(role, inputs, seed=subject.seed + shift)
            if again.error is not None:
                explain(subject, again, inputs)
                return
            if _report_change(subject, role, first, again, "from run to run"):
                return
    few = take(inputs, max(1, subject.rows - 2))
    if subject.rows > 1:
        for role, first in (("guide", subject.guide), ("model", subject.model)):
            again = subject.run(role, few)
            if again.error is not None:
                explain(subject, again, few, "rows")
                return
            for record in again.of("plate"):
                plate_size(subject, record, len(next(iter(few.values()))))
            if _report_change(subject, role, first, again, "with the batch size"):
                return
            _sizes(subject, role, first, again)


def _report_change(subject: Subject, role: str, first: Run, again: Run, how: str) -> bool:
    change = set(first.sites) ^ set(again.sites)
    if not change:
        return False
    name = sorted(change)[0]
    record = first.sites.get(name) or again.sites[name]
    subject.error(
        "unstable-sites",
        f"the sites of the {role} change {how}: {', '.join(map(repr, sorted(change)))} come and go",
        record.place,
        "state every site in every run; switch a part off with poutine.mask or a mixture weight, not with "
        "`if`",
        name,
    )
    return True


def _sizes(subject: Subject, role: str, first: Run, again: Run) -> None:
    """An event that grows with the batch holds several data."""
    for name, site in first.sites.items():
        other = again.sites[name]
        before, after = tuple(site.fn.event_shape), tuple(other.fn.event_shape)
        if before != after and not site.observed:
            subject.error(
                "outside-plate",
                f"the event of {role} site {name!r} grows with the batch, {before} for {subject.rows} data "
                f"and {after} for fewer: it holds several data",
                site.place,
                'put it into pyro.plate("data", ...) and leave the rows out of .to_event()',
                name,
            )

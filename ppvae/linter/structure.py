"""The sites of the two programs: names, observations, plates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppvae.errors import nearest
from ppvae.linter import places
from ppvae.linter.explain import duplicates, explain, loop, plate_size
from ppvae.linter.record import Record, Run
from ppvae.linter.subject import Subject, take
from ppvae.terms import DATA_PLATE


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


def names(subject: Subject) -> None:
    """Each latent of the model has one site in the guide, and each field is scored."""
    guide, model = subject.guide.sites, subject.model.sites
    for name, site in guide.items():
        if site.observed:
            subject.error(
                "guide-observes",
                f"the guide observes {name!r}: a guide only proposes latents",
                site.place,
                "remove obs= there, or the site",
                name,
            )
    _observed(subject)
    _conditions(subject)
    _params(subject)
    only_guide = [
        n for n, s in guide.items() if n not in model and not s.infer.get("is_auxiliary") and not s.observed
    ]
    only_model = [
        n
        for n, s in model.items()
        if not s.observed
        and n not in guide
        and n not in subject.built.enumerated
        and n not in subject.pair.observed
    ]
    told: set[str] = set()
    for name in only_guide:
        near = nearest(name, only_model) or (f", is it {only_model[0]!r}?" if len(only_model) == 1 else "")
        match = next((n for n in only_model if repr(n) in near), None)
        observed = name in subject.pair.observed
        told |= {match} if match else set()
        subject.error(
            "missing-in-model",
            f"guide site {name!r} is not in the model{near}",
            guide[name].place,
            f"rename it to {match!r}, as the model calls it"
            if match
            else f"delete it: {name!r} is observed, not latent"
            if observed
            else "delete it, add it to the model, or mark it infer={'is_auxiliary': True}",
            name,
        )
    for name in only_model:
        if name in told:
            continue
        subject.error(
            "missing-in-guide",
            f"latent {name!r} of the model (line {model[name].place.line}) has no site in the guide and "
            "would be "
            "drawn from its prior",
            _end(subject, model[name]),
            f"add pyro.sample({name!r}, ...) to the guide"
            + (f", or Pair(discrete={{{name!r}: 'enumerate'}})" if _discrete(model[name].fn) else ""),
            name,
        )
    for name in subject.pair.discrete:
        if name not in guide and name not in model:
            latents = [n for n, s in model.items() if not s.observed]
            subject.error(
                "handling",
                f"Pair(discrete=) names {name!r}, which is no site{nearest(name, latents)}",
                places.of_pair(subject.pair, "discrete"),
                f"name a latent of the pair: {', '.join(latents) or 'it has none'}",
                name,
            )
    if subject.pair.bound == "exact" and subject.latents:
        name = next(iter(subject.latents))
        subject.error(
            "bound",
            f"Pair(bound='exact') although {name!r} is sampled: the objective is then only a lower bound",
            places.of_pair(subject.pair, "bound"),
            "write bound='elbo', or sum the latents out",
            name,
        )


def _end(subject: Subject, record: Record) -> Any:
    """A missing site belongs in the guide: its first line; for an AutoGuide, the model's statement."""
    place = places.of_forward(subject.part("guide"))
    return place if place.file and places.is_users(place.file) else record.place


def _discrete(fn: Any) -> bool:
    try:
        return bool(fn.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def _observed(subject: Subject) -> None:
    """Every observed field is scored at a site of its name."""
    model = subject.model.sites
    for name in subject.pair.observed:
        site = model.get(name)
        if site is not None and site.observed:
            continue
        if site is not None:
            subject.error(
                "observed-latent",
                f"field {name!r} is declared observed, but the model draws it as a latent",
                site.place,
                f"pass obs={name} in pyro.sample({name!r}, ..., obs={name})",
                name,
            )
            continue
        other = _scored_as(subject, name)
        if other is None:
            subject.error(
                "unscored",
                f"observed field {name!r} is never scored by the model",
                places.of_forward(subject.part("model")),
                f"add pyro.sample({name!r}, ..., obs={name}) to the model, or take {name!r} out of "
                "Pair(observed=)",
                name,
            )
        elif other.kind == "factor":
            subject.add(
                "note",
                "observed-name",
                f"field {name!r} is scored by the factor {other.name!r}, so that it cannot be drawn",
                other.place,
                f"write the likelihood as a distribution, pyro.sample({name!r}, ..., obs={name}), to draw "
                f"{name!r}",
                name,
            )
        else:
            subject.error(
                "observed-name",
                f"field {name!r} is scored under the name {other.name!r}, where generate and reconstruct cannot "
                "find it",
                other.place,
                f"rename the site to {name!r}, or name the field {other.name!r} in the data and write "
                f"Pair(observed=({other.name!r},))",
                name,
            )


def _conditions(subject: Subject) -> None:
    """A condition is given: the bound is one on log p(x | y), so that nothing may score y."""
    pair = subject.pair
    for name in pair.conditions:
        site = subject.model.sites.get(name)
        if site is None or not site.observed:
            site = _observation_of(subject, name)
        if site is not None:
            subject.error(
                "condition-scored",
                f"the condition {name!r} is scored by the site {site.name!r} of the model: the bound would be one "
                f"on the joint log-probability with {name!r}",
                site.place,
                f"if {name!r} is given, remove the sample statement; if it is modelled, write "
                f"Pair(observed={(*pair.observed, name)!r}) without it in conditions",
                name,
            )


def _observation_of(subject: Subject, condition: str) -> Record | None:
    """The observation whose value is the condition's and no observed field's."""
    value = subject.inputs.get(condition)
    for record in subject.model.of("sample"):
        if record.observed and record.name not in subject.pair.observed and record.value is value is not None:
            return record
    return None


def _scored_as(subject: Subject, field: str) -> Record | None:
    """An observation or factor whose log-probability follows the field."""
    value = subject.inputs[field]
    candidates = [r for r in subject.model.of("sample", "factor") if r.observed or r.kind == "factor"]
    if not candidates or len(value) < 2:
        return next(iter(candidates), None)
    other = subject.run("model", {**subject.inputs, field: value.flip(0)}, latents=subject.model.latents)
    for record, again in zip(
        candidates, [r for r in other.records if r.observed or r.kind == "factor"], strict=False
    ):
        if isinstance(record.value, Tensor) and isinstance(again.value, Tensor) and record.kind == "sample":
            same = record.value.shape == again.value.shape and torch.equal(record.value, again.value)
        else:
            same = torch.equal(_score(record), _score(again))
        if not same:
            return record
    return None


def _score(record: Record) -> Tensor:
    return record.fn.log_prob(record.value).detach()


def _params(subject: Subject) -> None:
    """One name, one parameter: a bare pyro.param of the model and one of the guide are the same parameter."""
    mine = {r.name: r for r in subject.model.of("param") if r.bare}
    for record in subject.guide.of("param"):
        first = mine.get(record.name)
        if not record.bare or first is None:
            continue
        starts = [_initial(r) for r in (first, record)]
        # Without an initial value the guide reads the model's parameter; one object is shared on purpose.
        if any(start is None for start in starts) or starts[0] is starts[1]:
            continue
        subject.error(
            "param-collision",
            f"model (line {first.place.line}) and guide both make a parameter {record.name!r}: they would "
            "share one, "
            "and the second initial value is ignored",
            record.place,
            f"rename the guide's, such as 'guide_{record.name.split('$$$')[0]}'; to share it, leave out "
            "its initial value",
            record.name,
        )


def _initial(record: Record) -> Any:
    arguments = record.message["args"]
    return arguments[1] if len(arguments) > 1 else record.message["kwargs"].get("init_tensor")


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
            plates_of(subject, again, len(next(iter(few.values()))))
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
                f"and {after} "
                "for fewer: it holds several data",
                site.place,
                'put it into pyro.plate("data", ...) and leave the rows out of .to_event()',
                name,
            )


def plates_of(subject: Subject, run: Run, count: int) -> None:
    """Data plates have as many rows as the batch."""
    for record in run.of("plate"):
        plate_size(subject, record, count)


def plates(subject: Subject) -> None:
    """One plate called data at dim -1 around all that is per datum; deeper ones as Pair(plates=) says."""
    if not subject.inputs:
        return  # a model without data: its one row is the whole model
    for run in (subject.model, subject.guide):
        plates_of(subject, run, subject.rows)
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
            "but not in the "
            f"{outside.role}",
            outside.place,
            f"move it into the plate {plate!r} there, if it is per "
            f"{'datum' if plate == DATA_PLATE else plate}, "
            "or out of it in both, if all share one draw",
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

"""The fields of the data: each observed one is scored under its own name, a condition never."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppvae.linter import places
from ppvae.linter.record import Record
from ppvae.linter.subject import Subject


def observed(subject: Subject) -> None:
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
                f"field {name!r} is scored under the name {other.name!r}, where generate and reconstruct "
                "cannot find it",
                other.place,
                f"rename the site to {name!r}, or name the field {other.name!r} in the data and write "
                f"Pair(observed=({other.name!r},))",
                name,
            )


def conditions(subject: Subject) -> None:
    """A condition is given: the bound is one on log p(x | y), so that nothing may score y."""
    pair = subject.pair
    for name in pair.conditions:
        site = subject.model.sites.get(name)
        if site is None or not site.observed:
            site = _observation_of(subject, name)
        if site is not None:
            subject.error(
                "condition-scored",
                f"the condition {name!r} is scored by the site {site.name!r} of the model: the bound would "
                f"be one on the joint log-probability with {name!r}",
                site.place,
                f"if {name!r} is given, remove the sample statement; if it is modelled, write "
                f"Pair(observed={(*pair.observed, name)!r}) without it in conditions",
                name,
            )


def _observation_of(subject: Subject, condition: str) -> Record | None:
    """The observation whose value follows the condition and no observed field."""
    first, pair = subject.model, subject.pair
    suspects = [s for s in first.sites.values() if s.observed and s.name not in pair.observed]
    if not suspects or condition not in subject.inputs or subject.rows < 2:
        return None
    mine, theirs = (subject.run("model", _altered(subject, names)) for names in ((condition,), pair.observed))
    for site in suspects:
        values = [run.sites[site.name].value for run in (mine, theirs) if site.name in run.sites]
        if len(values) == 2 and not _same(site.value, values[0]) and _same(site.value, values[1]):
            return site
    return None


def _altered(subject: Subject, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The batch with other rows in these fields: its own moved on, or other data where these are alike."""
    changed, pool = dict(subject.inputs), subject.pool
    for name in [name for name in names if name in changed and changed[name].dim()]:
        moved = changed[name].roll(1, 0)
        changed[name] = moved if not torch.equal(moved, changed[name]) else pool[name][-subject.rows :]
    return changed


def _same(first: Any, second: Any) -> bool:
    return isinstance(second, Tensor) and first.shape == second.shape and torch.equal(first, second)


def _scored_as(subject: Subject, field: str) -> Record | None:
    """An observation or factor whose log-probability follows the field."""
    value = subject.inputs[field]
    candidates = [r for r in subject.model.of("sample", "factor") if r.observed or r.kind == "factor"]
    if not candidates or len(value) < 2:
        return next(iter(candidates), None)
    other = subject.run("model", _altered(subject, (field,)), latents=subject.model.latents)
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

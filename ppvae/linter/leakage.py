"""Data must not depend on each other, nor on random numbers that no sample statement draws."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae.linter import places
from ppvae.linter.evaluation import differs, evaluation, replayed
from ppvae.linter.record import observe
from ppvae.linter.subject import Subject, rows
from ppvae.terms import Terms


def leakage(subject: Subject) -> None:
    """Another datum 0, or other latents of it, change no other datum's terms; nor do random numbers.

    Compared in evaluation mode and at the same draws.
    """
    _norms(subject)
    inputs, count = subject.inputs, subject.rows
    if any(len(v) != count for v in inputs.values()):
        return
    with evaluation(subject):
        drawn = subject.run("guide", inputs).latents
        latents = {n: v.detach() for n, v in drawn.items() if n not in subject.built.enumerated}
        first = replayed(subject, inputs, latents)
        again = replayed(subject, inputs, latents, seed=subject.seed + 1)
        if first is None or again is None or _unrecorded(subject, first, again, latents) or count < 2:
            return
        changes = {
            "another datum 0": (_with_another(subject, inputs), latents),
            "another latent of datum 0": (inputs, _with_another_latent(subject, latents)),
        }
        for what, (fields, values) in changes.items():
            second = replayed(subject, fields, values)
            found = _changed(first, second, others=True) if second is not None else None
            if found is not None:
                _report_leak(subject, what, *found)
                return


def _changed(first: Terms, second: Terms, others: bool) -> tuple[str, str] | None:
    """The first (role, site) whose log-probabilities differ; with `others`, those of data but datum 0."""
    for name, site in first.sites.items():
        other = second.sites[name]
        if site.kind == "bound" and not others:
            continue  # an estimate of a bound may be a random one
        for role, before, after in (("guide", site.log_q, other.log_q), ("model", site.log_p, other.log_p)):
            if before is None or after is None or before.shape != after.shape:
                continue
            if others and before.dim() != 2:
                continue
            if differs(before[:, 1:], after[:, 1:]) if others else differs(before, after):
                return role, name
    return None


def _site_place(subject: Subject, role: str, name: str) -> places.Place:
    record = (subject.guide if role == "guide" else subject.model).sites.get(name)
    return record.place if record is not None else places.of_forward(subject.part(role))


def _report_leak(subject: Subject, what: str, role: str, name: str) -> None:
    subject.error(
        "leakage",
        f"data leak into each other: {what} changes the {role}'s log-probability of site {name!r} for "
        "other data",
        _site_place(subject, role, name),
        f"let no operation of the {role} mix rows: no mean, norm, softmax or attention over dim 0, no "
        "reshape that mixes data; LayerNorm rather than statistics of the batch",
        name,
    )


def _unrecorded(subject: Subject, first: Terms, again: Terms, latents: Mapping[str, Tensor]) -> bool:
    """Random numbers that no sample statement draws; a stochastic bound may, and so may what is no bound."""
    plates = [*subject.guide.of("plate"), *subject.model.of("plate")]
    subsampled = any(plate.drawn != plate.message["fn"].size for plate in plates)
    if subsampled or subject.pair.bound == "none":  # a random subsample is recorded, but not replayed
        return False
    found = _changed(first, again, others=False)
    if found is None:
        return False
    role, name = found
    with RandomCalls() as calls:
        subject.run(role, subject.inputs, latents={**subject.model.latents, **latents})
    subject.error(
        "unrecorded-noise",
        f"the {role} draws random numbers outside its sample statements: with the same draws, the "
        f"log-probability of site {name!r} differs from run to run, in evaluation mode",
        next((place for place in calls.places if place.file), _site_place(subject, role, name)),
        "draw them by pyro.sample, in the guide with infer={'is_auxiliary': True}, or remove the noise; "
        "dropout is nn.Dropout, which is off in evaluation",
        name,
    )
    return True


class RandomCalls(TorchDispatchMode):
    """The user's lines that draw torch's random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[places.Place] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.places.append(places.of_caller(observe.__code__))
        return func(*args, **(kwargs or {}))


def _norms(subject: Subject) -> None:
    norms = {n: m for n, m in subject.built.named_modules() if isinstance(m, _BatchNorm) and m.training}
    if norms:
        name = next(iter(norms))
        subject.warn(
            "batchnorm",
            f"{len(norms)} BatchNorm layer(s) couple the data of a batch while training: log_weight of one "
            "datum then depends on the others; data were compared in evaluation mode",
            places.of_parameter(subject.built, name + ".weight"),
            "use LayerNorm or GroupNorm, or know that the training bound is one on the batch",
            name,
        )


def _with_another(subject: Subject, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same batch with another datum 0, taken from the data so that it lies in every support."""
    pool = subject.built.inputs(subject.pool)
    differs = [
        i
        for i in range(1, rows(pool))
        if all(not torch.equal(v[i], v[0]) for v in pool.values() if v.is_floating_point())
    ]
    chosen = next((i for i in reversed(differs)), rows(pool) - 1)
    return {name: torch.cat([pool[name][chosen : chosen + 1], value[1:]]) for name, value in inputs.items()}


def _with_another_latent(subject: Subject, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same draws, with those of datum 0 from another run, so that they lie in every support."""
    fresh, changed = subject.run("guide", subject.inputs, seed=subject.seed + 1).latents, dict(latents)
    for name, value in latents.items():
        site, other = subject.guide.sites.get(name), fresh.get(name)
        if site is None or other is None or not site.in_data or other.shape != value.shape:
            continue
        dim = value.dim() - 1 - site.fn.event_dim
        if dim >= 0 and value.shape[dim] == subject.rows:
            changed[name] = value.clone()
            changed[name].select(dim, 0).copy_(other.detach().select(dim, 0))
    return changed

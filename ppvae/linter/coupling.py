"""What must not depend on each other: data of a batch, particles, batch sizes; and drawing without data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppvae.linter import places, shapes
from ppvae.linter.explain import PARTICLE_FIX, explain
from ppvae.linter.subject import Subject, rows, take
from ppvae.terms import Terms

TOLERANCE = 1e-3
"""Relative: float32 kernels of different shapes differ by far less, a leak by far more."""


def batch_sizes(subject: Subject) -> None:
    """The same shapes with fewer data: a size that fits by chance does not fit twice."""
    for count in {max(1, subject.rows - 2), 1} - {subject.rows}:
        few = take(subject.inputs, count)
        if not few or (count == 1 and _batch_norms(subject)):
            continue
        guide, model = subject.both(few)
        for run in (guide, model):
            if run.error is not None:
                explain(subject, run, few, "rows")
                return
        shapes.check(subject, model, rows(few))
        if not subject.report.ok:
            return


def leakage(subject: Subject) -> None:
    """Another datum 0 changes no other datum's terms, in evaluation mode and at the same draws."""
    _norms(subject)
    inputs, count = subject.inputs, subject.rows
    if count < 2 or any(len(v) != count for v in inputs.values()):
        return
    other = _with_another(subject, inputs)
    with _evaluation(subject):
        first = _replayed(subject, inputs)
        second = _replayed(subject, other)
        noisy = _replayed(subject, inputs, seed=subject.seed + 1)
    if first is None or second is None or noisy is None:
        return
    for name, site in first.sites.items():
        changed = second.sites[name]
        for role, before, after in (
            ("guide", site.log_q, changed.log_q),
            ("model", site.log_p, changed.log_p),
        ):
            if before is None or after is None or before.dim() != 2 or before.shape != after.shape:
                continue
            if _differs(before[:, 1:], after[:, 1:]):
                run = subject.guide if role == "guide" else subject.model
                record = run.sites.get(name)
                subject.error(
                    "leakage",
                    f"data leak into each other: another datum 0 changes the {role}'s log-probability of "
                    f"site {name!r} "
                    "for other data",
                    record.place if record is not None else places.of_forward(subject.part(role)),
                    f"let no operation of the {role} mix rows: no mean, norm, softmax or attention over "
                    "dim 0, no "
                    "reshape that mixes data; LayerNorm rather than statistics of the batch",
                    name,
                )
                return


def _norms(subject: Subject) -> None:
    norms = {n: m for n, m in subject.built.named_modules() if isinstance(m, _BatchNorm) and m.training}
    if norms:
        name = next(iter(norms))
        subject.warn(
            "batchnorm",
            f"{len(norms)} BatchNorm layer(s) couple the data of a batch while training: log_weight of one "
            "datum then "
            "depends on the others; data were compared in evaluation mode",
            places.of_parameter(subject.built, name + ".weight"),
            "use LayerNorm or GroupNorm, or know that the training bound is one on the batch",
            name,
        )


def _batch_norms(subject: Subject) -> bool:
    return any(isinstance(m, _BatchNorm) and m.training for m in subject.built.modules())


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


def _replayed(
    subject: Subject, inputs: Mapping[str, Tensor], latents: Any = None, seed: int | None = None
) -> Terms | None:
    return subject.score(inputs, subject.latents if latents is None else latents, 1, seed)[0]


def _differs(before: Tensor, after: Tensor) -> bool:
    scale = torch.maximum(before.abs(), after.abs()).clamp(min=1.0)
    return bool(((before - after).abs() > TOLERANCE * scale).any())


class _evaluation:
    """Evaluation mode for a while, each module's own flag put back after."""

    def __init__(self, subject: Subject):
        self.flags = [(module, module.training) for module in _modules(subject)]

    def __enter__(self) -> None:
        for module, _ in self.flags:
            module.training = False

    def __exit__(self, *error: object) -> None:
        for module, flag in self.flags:
            module.training = flag


def _modules(subject: Subject) -> list[nn.Module]:
    return list(subject.built.modules())


def particles(subject: Subject) -> None:
    """Several particles at once give what they give one after another."""
    declared, training = subject.pair.vectorize, subject.built.vectorize
    if declared is False:
        return
    with _evaluation(subject):
        plates, inputs = subject.pair.plates, subject.inputs
        before = len(subject.report.findings)
        terms = None
        for count in (2, 3):
            guide, model = subject.both(inputs, particles=count)
            failed = next((run for run in (guide, model) if run.error is not None), None)
            if failed is not None:
                explain(subject, failed, inputs, "particles")
                break
            drawn = {n: r for n, r in guide.sites.items() if n not in subject.built.enumerated}
            terms, run = subject.score(inputs, {n: r.value for n, r in drawn.items()}, count)
            if terms is None:
                explain(subject, run, inputs, "particles")
                break
            if _compare(subject, terms, drawn, plates):
                break
        if not training:
            _soften(subject, before)


def _soften(subject: Subject, before: int) -> None:
    """Training runs one particle after another here, so that only an evaluation with several would fail."""
    findings = subject.report.findings
    for i, finding in enumerate(findings[before:], before):
        fields = {**vars(finding), "level": "warning"}
        findings[i] = type(finding)(**fields)


def _compare(subject: Subject, together: Terms, drawn: Mapping[str, Any], plates: int) -> bool:
    inputs = subject.inputs
    for k in range(together.particles):
        latents = {name: _particle(subject, name, record, k, plates) for name, record in drawn.items()}
        single = _replayed(subject, inputs, latents)
        repeated = _replayed(subject, inputs, latents, seed=subject.seed + 1)
        if single is None or repeated is None:
            return False
        for name, site in together.sites.items():
            alone, twice = single.sites[name], repeated.sites[name]
            for role, many, one, noisy in (
                ("guide", site.log_q, alone.log_q, twice.log_q),
                ("model", site.log_p, alone.log_p, twice.log_p),
            ):
                # Randomness outside of sites (a chain's random time, say) cannot be replayed.
                if many is None or one is None or noisy is None or not torch.equal(one, noisy):
                    continue
                if many[k].shape != one[0].shape or _differs(many[k], one[0]):
                    record = (subject.guide if role == "guide" else subject.model).sites.get(name)
                    subject.error(
                        "particles",
                        f"several particles at once give another log-probability of site {name!r} in the "
                        f"{role} than "
                        "one after another: a net does not accept leading dims",
                        record.place if record is not None else places.of_forward(subject.part(role)),
                        PARTICLE_FIX,
                        name,
                    )
                    return True
    return False


def _particle(subject: Subject, name: str, record: Any, k: int, plates: int) -> Tensor:
    """Draw k of a vectorized site, in the shape that one particle has."""
    value, shape = record.value, subject.guide.sites[name].value.shape
    dim = value.dim() - record.fn.event_dim - 1 - plates
    if dim < 0 or value.shape[dim] == 1:
        return value.reshape(shape) if value.numel() == shape.numel() else value
    one = value.select(dim, k)
    return one.reshape(shape) if one.numel() == shape.numel() else one


def sampling(subject: Subject) -> None:
    """The model draws data when none are given."""
    pair = subject.pair
    if not pair.observed or pair.bound == "none":
        return
    model = subject.built.model
    parameters = inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    optional = all(name not in parameters or parameters[name].default is None for name in pair.observed)
    where = places.of_forward(model)
    if not optional or ("n" not in parameters and not anything and not pair.conditions):
        name = pair.observed[0]
        subject.warn(
            "cannot-sample",
            f"the model cannot be sampled: its signature lacks {'n' if optional else f'{name}=None'}",
            where,
            f"write model({name}=None, ..., n=None), with rows = n if {name} is None else len({name}), "
            f"and obs={name}, which is drawn when it is None",
            name,
        )
        return
    given = {n: v[:2] for n, v in subject.inputs.items() if n in pair.conditions}
    with _evaluation(subject):
        run = subject.run("model", {**given, "n": 2})
    if run.error is not None:
        explain(subject, run, given, "sample")
        return
    for name in pair.observed:
        site = run.sites.get(name)
        if site is None or not site.in_data or any(f.code == "subsample" for f in subject.report.findings):
            continue
        drawn = tuple(site.fn.batch_shape)[-1:]
        if drawn != (2,):
            subject.warn(
                "cannot-sample",
                f"model(n=2) draws {name!r} in {drawn[0] if drawn else 1} rows",
                site.place,
                "read the rows off n where nothing is observed: rows = n if x is None else len(x)",
                name,
            )


def amortized(subject: Subject) -> None:
    """A local latent whose q(z | x) does not depend on the datum may be a global one in the wrong place."""
    inputs = {n: v.clone().requires_grad_(v.is_floating_point()) for n, v in subject.inputs.items()}
    if not any(v.requires_grad for v in inputs.values()) or subject.rows < 2:
        return
    takes = subject.built._takes["guide"]
    if takes is not None and any(not v.is_floating_point() for n, v in inputs.items() if n in takes):
        return
    run = subject.run("guide", inputs)
    if run.error is not None or (takes is not None and not takes & set(inputs)):
        return
    for name, site in run.sites.items():
        log_q = site.fn.log_prob(site.value.detach()) if isinstance(site.value, Tensor) else None
        if site.in_data and log_q is not None and log_q.requires_grad and not _follows(log_q, inputs):
            subject.warn(
                "unamortized",
                f"q({name}) inside the plate 'data' is the same for every datum",
                site.place,
                f"make it depend on x; or, if all data share one {name}, move it in front of the plate in "
                "model and guide",
                name,
            )


def _follows(value: Tensor, inputs: Mapping[str, Tensor]) -> bool:
    wanted = [v for v in inputs.values() if v.requires_grad]
    return any(
        g is not None for g in torch.autograd.grad(value.sum(), wanted, allow_unused=True, retain_graph=True)
    )

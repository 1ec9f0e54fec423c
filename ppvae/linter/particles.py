"""Several particles at once, and fewer data, give what one particle and more data give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ppvae.linter import places, shapes
from ppvae.linter.evaluation import differs, evaluation, replayed
from ppvae.linter.explain import PARTICLE_FIX, explain
from ppvae.linter.subject import Subject, rows, take
from ppvae.terms import Terms


def batch_sizes(subject: Subject) -> None:
    """The same shapes with fewer data: a size that fits by chance does not fit twice."""
    for count in sorted({max(1, subject.rows - 2), 1} - {subject.rows}, reverse=True):
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


def _batch_norms(subject: Subject) -> bool:
    return any(isinstance(m, _BatchNorm) and m.training for m in subject.built.modules())


def particles(subject: Subject) -> None:
    """Several particles at once give what they give one after another."""
    declared, training = subject.pair.vectorize, subject.built.vectorize
    if declared is False:
        return
    with evaluation(subject):
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
        single = replayed(subject, inputs, latents)
        repeated = replayed(subject, inputs, latents, seed=subject.seed + 1)
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
                if many[k].shape != one[0].shape or differs(many[k], one[0]):
                    record = (subject.guide if role == "guide" else subject.model).sites.get(name)
                    subject.error(
                        "particles",
                        f"several particles at once give another log-probability of site {name!r} in the "
                        f"{role} than one after another: a net does not accept leading dims",
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

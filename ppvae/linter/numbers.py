"""Numbers: a scale that the user wrote, and what is not finite at initialization."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppvae.linter import places
from ppvae.linter.explain import explain
from ppvae.linter.record import Record
from ppvae.linter.subject import Subject, rows


def scales(subject: Subject) -> None:
    """A scale that the user wrote."""
    few, total = rows(subject.inputs), subject.built.num_data or 0
    usual = total / few if few and total > few else None
    found: dict[bool, list[tuple[Record, Tensor]]] = {True: [], False: []}
    for site in [*subject.model.sites.values(), *subject.guide.sites.values(), *subject.model.of("factor")]:
        ratio = math.prod(f.full_size / f.size for f in site.frames if f.full_size not in (None, f.size))
        scale = torch.as_tensor(site.scale, dtype=torch.float64).detach().cpu() / ratio
        if bool(torch.isclose(scale, torch.ones((), dtype=torch.float64), rtol=1e-6).all()):
            continue
        ours = usual is not None and scale.numel() == 1 and math.isclose(float(scale), usual, rel_tol=1e-6)
        found[ours].append((site, scale))
    for ours, scaled in found.items():
        if not scaled:
            continue
        site, scale = scaled[0]
        shown = f"{float(scale):g}" if scale.numel() == 1 else f"a tensor of shape {tuple(scale.shape)}"
        others = len({s.name for s, _ in scaled}) - 1
        what = f"site {site.name!r} of the {site.role}" + (f" (and {others} more)" if others else "")
        if ours:
            message = f"{what} is scaled by N / B = {shown}, which the library does by itself"
            fix = "remove the scale: models are written unscaled"
        else:
            message = (
                f"{what} carries a scale of the user's, {shown}: the number "
                "logged as elbo would be no bound on log p(x)"
            )
            fix = (
                "write the pair unscaled and weigh the rate by the estimator, --estimator elbo:beta=... or "
                "--kl-warmup; if the scale is meant, fit(..., check=False)"
            )
        subject.error("scale", message, site.place, fix, site.name)


def finite(subject: Subject) -> None:
    """Log-probabilities and parameters are finite at initialization."""
    for name, parameter in subject.built.named_parameters():
        if not bool(parameter.isfinite().all()):
            subject.error(
                "nonfinite",
                f"parameter {name!r} holds nan or inf at initialization",
                places.of_parameter(subject.built, name),
                "initialize it with finite numbers",
                name,
            )
    if not subject.report.ok:
        return
    terms, run = subject.score(subject.inputs)
    if terms is None:
        explain(subject, run, subject.inputs, "score")
        return
    for name, site in terms.sites.items():
        for role, log_prob in (("model", site.log_p), ("guide", site.log_q)):
            if log_prob is None or bool(log_prob.isfinite().all()):
                continue
            kept = (subject.model if role == "model" else subject.guide).sites.get(name)
            bad = log_prob[~log_prob.isfinite()][0].item()
            subject.error(
                "nonfinite",
                f"log-probability of site {name!r} in the {role} is {bad:g} at initialization",
                kept.place if kept is not None else places.of_forward(subject.part(role)),
                "look for a scale of 0, log of 0, or an exploding exp in its parameters; softplus keeps a "
                "scale positive",
                name,
            )

"""The data lie in the support of the likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.linter.record import Record
from ppvae.linter.subject import Subject
from ppvae.linter.supports import describe, family, lies_in, support_of


def data(subject: Subject) -> None:
    """The data lie in the support of the likelihood, also where validation is switched off."""
    if not subject.inputs:
        return
    inputs = subject.built.inputs(subject.pool)
    _, run = subject.both(inputs)
    if run.error is not None:  # the batch-size check reports it
        inputs, run = subject.inputs, subject.model
    for site in run.of("sample"):
        if site.observed and isinstance(site.value, Tensor):
            _observation(subject, site)


def _observation(subject: Subject, site: Record) -> None:
    value, base = site.value, family(site.fn)
    ok = lies_in(support_of(site.fn), value)
    if ok is None:
        return
    masks = [mask for mask in (site.mask, getattr(site.fn, "_mask", None)) if mask is not None]
    for mask in masks:
        try:
            ok = ok | ~torch.as_tensor(mask, dtype=torch.bool)
        except RuntimeError:
            return
    if bool(ok.all()):
        return
    number = int((~ok).nonzero()[0, -1]) if ok.dim() else 0
    finite = value.isfinite().all() if value.is_floating_point() else True
    whole = bool((value == value.round()).all()) if value.is_floating_point() else True
    low, high = float(value.min()), float(value.max())
    field = site.name
    if not finite:
        subject.error(
            "nonfinite-data",
            f"field {field!r} holds nan or inf, first in datum {number} of the batch",
            site.place,
            "fill the missing entries with 0 and pass a mask, or drop those data",
            field,
        )
        return
    if base in ("Bernoulli", "ContinuousBernoulli", "RelaxedBernoulli") and low >= 0 and high <= 1:
        fix = "binarize the data, --binarization dynamic, or use a ContinuousBernoulli likelihood"
        what = f"grey values in [{low:g}, {high:g}], of which a Bernoulli has no likelihood"
    elif base == "Bernoulli":
        what, fix = (
            f"values in [{low:g}, {high:g}], not 0 and 1",
            "scale them to [0, 1] and binarize, --binarization dynamic",
        )
    elif not whole and bool(getattr(support_of(site.fn), "is_discrete", False)):
        what = f"fractions, in [{low:g}, {high:g}], under a {base} of whole numbers"
        fix = "give counts, x.round() where they are counts, or use a continuous likelihood"
    elif base in ("Categorical", "OneHotCategorical"):
        classes = (
            site.fn.event_shape[-1]
            if base == "OneHotCategorical"
            else site.fn.enumerate_support(expand=False).shape[0]
        )
        what = (
            f"labels from {low:g} to {high:g}, where the Categorical has {classes} classes, 0..{classes - 1}"
        )
        fix = f"give the logits at least {int(high) + 1} classes, or count the labels from 0"
    else:
        what = f"values in [{low:g}, {high:g}], outside the {base}'s support {describe(support_of(site.fn))}"
        fix = "transform the data into the support, or use a likelihood on theirs"
    subject.error(
        "data-support", f"field {field!r} has {what} (datum {number} of the batch)", site.place, fix, field
    )

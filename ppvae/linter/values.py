"""Supports, kinds of latents, scales and finite numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.linter import places
from ppvae.linter.explain import explain, parameter_dtype
from ppvae.linter.record import Record
from ppvae.linter.subject import Subject, rows, take

_REPLACEMENT = {
    "real": "Normal",
    "positive": "LogNormal or Gamma",
    "unit_interval": "Beta or LogitNormal",
    "simplex": "Dirichlet",
    "discrete": "the same discrete distribution as the model's",
}


def latents(subject: Subject) -> None:
    """The guide's support lies inside the model's."""
    for name, q in subject.guide.sites.items():
        p = subject.model.sites.get(name)
        if p is None or p.observed:
            continue
        if isinstance(q.value, Tensor) and q.value.is_floating_point() and not bool(q.value.isfinite().all()):
            subject.error(
                "nonfinite",
                f"the guide's draw of {name!r} is nan or inf at initialization",
                q.place,
                "look for log of 0, division by 0 or an exploding exp in its parameters; are the data "
                "finite?",
                name,
            )
            continue
        mine, theirs = _support(q.fn), _support(p.fn)
        # A Delta has the support of its point, not the reals that it declares; a straight-through relaxation
        # draws discrete values from a continuous distribution, on purpose.
        drawn = _base(q.fn) == "Delta" or subject.pair.discrete.get(name) == "reparameterized"
        inside = None if drawn else _inside(mine, theirs)
        if inside is None or inside:
            ok = _checked(theirs, q.value)
            inside = ok is None or bool(ok.all())
        if not inside:
            subject.error(
                "support",
                f"the guide draws {name!r} from a {_base(q.fn)} on {describe(mine)}, but the model's "
                f"{_base(p.fn)} lives "
                f"on {describe(theirs)} (line {p.place.line})",
                q.place,
                f"use a distribution on {describe(theirs)} in the guide, such as "
                f"{_REPLACEMENT.get(describe(theirs), _base(p.fn))}",
                name,
            )


def _strip(constraint: Any) -> Any:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _support(fn: Any) -> Any:
    try:
        return fn.support
    except (NotImplementedError, AttributeError):
        return None


def _range(constraint: Any) -> tuple[Any, Any, bool] | None:
    """(lowest, highest, discrete) of a support on the line; None for any other."""
    constraint = _strip(constraint)
    if constraint is constraints.real or type(constraint).__name__ == "_Real":
        return -math.inf, math.inf, False
    if type(constraint).__name__ == "_Boolean":
        return 0.0, 1.0, True
    low, high = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)
    if (low is None and high is None) or constraint.event_dim:
        return None
    return (
        -math.inf if low is None else low,
        math.inf if high is None else high,
        bool(constraint.is_discrete),
    )


def _inside(mine: Any, theirs: Any) -> bool | None:
    """Whether one support lies inside the other; None when only draws can tell."""
    if mine is None or theirs is None:
        return None
    if bool(mine.is_discrete) != bool(theirs.is_discrete):
        return False
    first, second = _range(mine), _range(theirs)
    if first is None and second is None:
        return None
    if first is None or second is None:
        # Densities on a simplex or on matrices are no densities on the reals, and the reverse.
        other = _strip(mine if first is None else theirs)
        return (
            None
            if type(other).__name__ in ("_Real", "_RealVector", "_Cat", "_Stack", "_Dependent")
            else False
        )
    low, high = torch.as_tensor(first[0]), torch.as_tensor(first[1])
    return bool((low >= torch.as_tensor(second[0])).all() and (high <= torch.as_tensor(second[1])).all())


def describe(constraint: Any) -> str:
    """A support in a word."""
    if constraint is None:
        return "an unknown support"
    bounds, name = _range(constraint), type(_strip(constraint)).__name__.strip("_").lower()
    if bounds is None:
        return "real" if name == "realvector" else name
    low, high = (torch.as_tensor(b) for b in bounds[:2])
    if low.numel() != 1 or high.numel() != 1:
        return name
    ends = (float(low), float(high))
    if bounds[2]:
        return (
            "{0, 1}"
            if ends == (0, 1)
            else f"the integers {ends[0]:g}..{'' if math.isinf(ends[1]) else f'{ends[1]:g}'}"
        )
    if ends == (-math.inf, math.inf):
        return "real"
    if ends == (0, math.inf):
        return "positive"
    return "unit_interval" if ends == (0, 1) else f"[{ends[0]:g}, {ends[1]:g}]"


def _base(fn: Any) -> str:
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution") and hasattr(
        fn, "base_dist"
    ):
        fn = fn.base_dist
    return type(fn).__name__


def _checked(support: Any, value: Any) -> Tensor | None:
    """Which values lie in the support; None when that cannot be told."""
    if support is None or not isinstance(value, Tensor):
        return None
    try:
        return support.check(value)
    except (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError):
        return None


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
    value, base = site.value, _base(site.fn)
    ok = _checked(_support(site.fn), value)
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
    elif not whole and bool(getattr(_support(site.fn), "is_discrete", False)):
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
        what = f"values in [{low:g}, {high:g}], outside the {base}'s support {describe(_support(site.fn))}"
        fix = "transform the data into the support, or use a likelihood on theirs"
    subject.error(
        "data-support", f"field {field!r} has {what} (datum {number} of the batch)", site.place, fix, field
    )


def handling(subject: Subject) -> None:
    """How each latent is handled is declared where it is not reparameterized."""
    pair = subject.pair
    for name, q in subject.guide.sites.items():
        how, discrete = pair.discrete.get(name), bool(getattr(_support(q.fn), "is_discrete", False))
        if q.infer.get("is_auxiliary") or name not in subject.model.sites:
            continue
        if how == "enumerate":
            _enumerable(subject, q)
        elif how == "reparameterized" and not q.fn.has_rsample:
            subject.error(
                "handling",
                f"Pair(discrete=) calls {name!r} reparameterized, but the guide's {_base(q.fn)} is not",
                q.place,
                "use 'enumerate' or 'score', or a relaxed distribution in the guide",
                name,
            )
        elif how is None and not q.fn.has_rsample:
            enumerable = bool(getattr(q.fn, "has_enumerate_support", False))
            word = "enumerate" if enumerable else "score"
            subject.error(
                "not-reparameterized",
                f"latent {name!r} is drawn from a {_base(q.fn)}, which is not reparameterized, and "
                "Pair(discrete=) does "
                "not say how it is handled",
                q.place,
                f"write Pair(discrete={{{name!r}: {word!r}}})"
                + (", or 'score'" if enumerable else "")
                + (
                    ""
                    if discrete
                    else ", or use a reparameterized distribution, such as Normal, in the guide"
                ),
                name,
            )
    for name in subject.built.enumerated:
        if name in subject.model.sites and name not in subject.guide.sites:
            _enumerable(subject, subject.model.sites[name])


def _enumerable(subject: Subject, site: Record) -> None:
    if not getattr(site.fn, "has_enumerate_support", False):
        subject.error(
            "enumerate",
            f"Pair(discrete=) enumerates {site.name!r}, but a {_base(site.fn)} has no finite list of values",
            site.place,
            f"take {site.name!r} out of Pair(discrete=)"
            + ("" if site.fn.has_rsample else ", or handle it by 'score'"),
            site.name,
        )


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
        more = "" if not others else f" ({others} more with it)"
        if ours:
            message = f"site {site.name!r} of the {site.role}{more} is scaled by N / B = {shown}, which the library does"
            fix = "remove the scale: models are written unscaled"
        else:
            message = (
                f"site {site.name!r} of the {site.role}{more} carries a scale of the user's, {shown}: the number "
                "logged as elbo would be no bound on log p(x)"
            )
            fix = (
                "write the pair unscaled and weigh the rate by the estimator, --estimator elbo:beta=... or "
                "--kl-warmup; if the scale is meant, fit(..., check=False)"
            )
        subject.error("scale", message, site.place, fix, site.name)


def types(subject: Subject) -> None:
    """Types that promote silently."""
    known = parameter_dtype(subject)
    for name, value in subject.inputs.items():
        if known is not None and value.is_floating_point() and value.dtype != known:
            subject.warn(
                "dtype",
                f"field {name!r} is {str(value.dtype)[6:]} and the parameters are {str(known)[6:]}: "
                "scores are computed in the wider type",
                places.of_forward(subject.part("model")),
                f"give {name} as {str(known)[6:]}",
                name,
            )


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


def again(subject: Subject) -> None:
    """The supports once more over several draws, which one draw may miss."""
    for shift in (1, 2):
        guide, _ = subject.both(take(subject.inputs, subject.rows), seed=subject.seed + shift)
        for name, site in guide.sites.items():
            kept = subject.guide.sites.get(name)
            if kept is not None:
                kept.value = site.value
        latents(subject)

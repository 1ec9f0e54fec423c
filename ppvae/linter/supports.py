"""Supports: where the guide draws must lie inside of where the model lives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.linter.subject import Subject, take

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
        mine, theirs = support_of(q.fn), support_of(p.fn)
        # A Delta has the support of its point, not the reals that it declares; a straight-through relaxation
        # draws discrete values from a continuous distribution, on purpose.
        drawn = family(q.fn) == "Delta" or subject.pair.handling(name) == "reparameterized"
        inside = None if drawn else _inside(mine, theirs)
        if inside is None or inside:
            ok = lies_in(theirs, q.value)
            inside = ok is None or bool(ok.all())
        if not inside:
            subject.error(
                "support",
                f"the guide draws {name!r} from a {family(q.fn)} on {describe(mine)}, but the model's "
                f"{family(p.fn)} lives on {describe(theirs)} (line {p.place.line})",
                q.place,
                f"use a distribution on {describe(theirs)} in the guide, such as "
                f"{_REPLACEMENT.get(describe(theirs), family(p.fn))}",
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


def _strip(constraint: Any) -> Any:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def support_of(fn: Any) -> Any:
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


def family(fn: Any) -> str:
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution") and hasattr(
        fn, "base_dist"
    ):
        fn = fn.base_dist
    return type(fn).__name__


def lies_in(support: Any, value: Any) -> Tensor | None:
    """Which values lie in the support; None when that cannot be told."""
    if support is None or not isinstance(value, Tensor):
        return None
    try:
        return support.check(value)
    except (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError):
        return None

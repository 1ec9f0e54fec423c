"""Distributions that wrap others: what lies inside."""

from __future__ import annotations

from typing import Any

MASKED, INDEPENDENT = "MaskedDistribution", "Independent"


def innermost(q: Any) -> Any:
    """The distribution itself, without what reinterprets its dimensions or masks it."""
    while type(q).__name__ in (INDEPENDENT, MASKED):
        q = q.base_dist
    return q


def unmasked(q: Any) -> Any:
    """The law that draws come from: q without its `.mask(...)`, whose probabilities would not add up to one.
    q itself where there is no mask."""
    if type(q).__name__ == MASKED:
        return unmasked(q.base_dist)
    if type(q).__name__ == INDEPENDENT:
        inner = unmasked(q.base_dist)
        return q if inner is q.base_dist else inner.to_event(q.reinterpreted_batch_ndims)
    return q


def is_point(q: Any) -> bool:
    """Whether q is a point (Delta), bare or inside any wrapper or transform, as an autoguide's draws are."""
    while hasattr(q, "base_dist"):
        q = q.base_dist
    return type(q).__name__ == "Delta"


def support_ends(q: Any) -> list[Any]:
    """The finite ends of the support of what draws, as a Uniform's low and high; of a transformed one they
    are not known."""
    try:
        support = innermost(q).support
    except (NotImplementedError, AttributeError):
        return []
    names = ("lower_bound", "upper_bound")
    return [end for name in names if (end := getattr(support, name, None)) is not None]

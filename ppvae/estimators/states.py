"""The states of a discrete distribution, listed: also the joint ones of what `to_event` makes one value."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, OneHotCategorical

from ppvae.errors import PairError
from ppvae.wrapped import innermost


def count_states(q: Distribution, name: str) -> int:
    """How many values one draw of q has.

    Raises:
        PairError: q is no Bernoulli, Categorical or OneHotCategorical.
    """
    each, elements = _each(q, name)
    return each**elements


def every_state(q: Distribution, name: str) -> Tensor:
    """All values of one draw of q, (states,) + event shape; the last element of an event moves fastest."""
    each, elements = _each(q, name)
    base = innermost(q)
    logits: Tensor = base.logits  # type: ignore[attr-defined]
    place = each ** torch.arange(elements - 1, -1, -1, device=logits.device)
    digits = torch.arange(each**elements, device=logits.device).unsqueeze(-1) // place % each
    if isinstance(base, OneHotCategorical):
        digits = digits.unsqueeze(-1) == torch.arange(each, device=logits.device)
    values = digits if isinstance(base, Categorical) else digits.to(logits.dtype)
    return values.reshape(-1, *q.event_shape)


def _each(q: Distribution, name: str) -> tuple[int, int]:
    """(values of one element, elements of one draw)."""
    base = innermost(q)
    if isinstance(base, Bernoulli):
        return 2, math.prod(q.event_shape)
    if isinstance(base, Categorical):
        return base.logits.shape[-1], math.prod(q.event_shape)
    if isinstance(base, OneHotCategorical):
        return base.logits.shape[-1], math.prod(q.event_shape[:-1])
    raise PairError(
        f"latent {name!r} is drawn from a {type(base).__name__}, whose states are not listed: write it as a "
        "Bernoulli, a Categorical or a OneHotCategorical, or use reinforce"
    )

"""Dreams: what the model draws when nothing is observed, and the guide's account of it.

    (z, x) ~ p(x, z),   log q(z | x)

The model runs without its observed fields, with as many rows as the batch and with the batch's conditions,
mask and lengths; the guide is then scored at the dreamed latents given the dreamed observations. No gradient
flows into the dream, so that -log q(z | x) teaches the guide alone: the sleep phase of wake-sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.drawing import Draw, Drawn
from ppvae.errors import PairError
from ppvae.tracing import DATA_PLATE, sample_sites


def dreamed(
    model: Callable[..., Any], batch: Mapping[str, Tensor], observed: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(batch with its observed fields dreamed, dreamed latents by name), both without a gradient.

    Raises:
        PairError: the model dreams another number of rows, or does not draw an observed field.
    """
    seen = [name for name in observed if name in batch]
    if not seen:
        raise PairError("a dream needs to know what is observed: list those fields in Pair(observed=)")
    rows = len(batch[seen[0]])
    given = {name: value for name, value in batch.items() if name not in seen}
    with torch.no_grad():
        try:
            trace = poutine.trace(model).get_trace(**given, n=rows)
        except (TypeError, AttributeError) as error:
            raise PairError(
                f"the model cannot dream: {str(error).splitlines()[0]} Let it draw n data where "
                f"{', '.join(seen)} is None"
            ) from error
    sites = {name: s for name, s in sample_sites(trace).items() if not s["is_observed"]}
    for name, site in sites.items():
        sizes = {frame.name: frame.size for frame in site["cond_indep_stack"]}
        if DATA_PLATE not in sizes:
            raise PairError(
                f"latent {name!r} is shared by all data and cannot be dreamed with each batch: "
                f"draw it inside the plate {DATA_PLATE!r}"
            )
        if sizes[DATA_PLATE] != rows:
            raise PairError(
                f"the model dreamed {sizes[DATA_PLATE]} rows instead of {rows}: let it draw n data where "
                f"{', '.join(seen)} is None"
            )
    for name in seen:
        if name not in sites:
            raise PairError(f"the model does not draw {name!r} when it is None: let it")
    fields = {name: _as_field(sites.pop(name), batch[name]) for name in seen}
    return {**batch, **fields}, {name: site["value"] for name, site in sites.items()}


def _as_field(site: dict, like: Tensor) -> Tensor:
    """What a site drew, laid out as the data are: the rows first, then the inner plates, then the event."""
    value = site["value"].movedim(-1 - len(site["fn"].event_shape), 0)
    if value.shape != like.shape:
        raise PairError(
            f"the model draws {site['name']!r} with shape {tuple(value.shape)}, rows first, but the data "
            f"have {tuple(like.shape)}: give both one shape"
        )
    return value.to(like.dtype)


def at_dreamed(latents: Mapping[str, Tensor]) -> Draw:
    """Hands the guide the dreamed latents in place of its own draws."""

    def draw(name: str, q: Any) -> Drawn:
        if name not in latents:
            raise PairError(
                f"latent {name!r} of the guide is not in the model and cannot be dreamed: let the model "
                "draw it"
            )
        value = latents[name]
        if value.shape != q.shape():
            raise PairError(
                f"latent {name!r} has shape {tuple(value.shape)} in a dream and {tuple(q.shape())} in the "
                "guide: give both one shape"
            )
        return Drawn(value, "score")

    return draw

"""Data that the model draws itself, and the latents behind them, which are exact draws of their posterior."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.dreaming import dreamed
from ppvae.errors import PairError


def simulated(built: Built, like: Mapping[str, Tensor] | int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(batch, latents by name) with x, z ~ p(x, z), so that z is a draw of p(z | x). No gradient in either.

    Use it inside `evaluating(built, seed)`. What a mask leaves out of x is zero, as it is in data.

    Args:
        like: a batch, whose conditions, mask and lengths are kept and whose observed fields are drawn anew;
            or how many data, where the model needs nothing but that.

    Raises:
        PairError: the model cannot be drawn from, has global latents, or needs a batch to know its fields.
    """
    with built.local(), torch.no_grad():
        inputs = _fields(built, like) if isinstance(like, int) else built.inputs(like)
        batch, latents = dreamed(built.run_model, inputs, built.pair.observed)
    mask = batch.get("mask")
    for name in built.pair.observed:
        if mask is not None and mask.shape == batch[name].shape:
            batch[name] = batch[name] * mask
    return batch, latents


def _fields(built: Built, rows: int) -> dict[str, Tensor]:
    """The one observed field, as the model returns it."""
    value = built.run_model(n=rows) if len(built.pair.observed) == 1 else None
    if not isinstance(value, Tensor):
        raise PairError("how the data look cannot be read off the model alone: give a batch, not a number")
    return {built.pair.observed[0]: value}

"""What callers give, tensors or arrays of any float type, as numpy arrays of a known shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppvae.errors import UsageError


def array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.dtype.is_floating_point else values
        return values.numpy()
    return np.asarray(values)


def matrix(values: Any, name: str) -> np.ndarray:
    """(N, D), of which (N,) is the case D = 1."""
    rows = array(values).astype(float)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.size:
        raise UsageError(f"{name} has shape {tuple(rows.shape)}: use (N, D)")
    return rows


def finite(values: np.ndarray) -> np.ndarray:
    values = values.astype(float).reshape(-1)
    return values[np.isfinite(values)]


def as_pictures(images: Any) -> np.ndarray:
    """(N, H, W, 3), floats in [0, 1]."""
    pictures = array(images)
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or 0 in pictures.shape:
        raise UsageError(
            f"images have shape {tuple(pictures.shape)}: use (N, C, H, W) with C = 1 or 3; for data that "
            "are no images there is pairs_scatter"
        )
    pictures = pictures / 255.0 if pictures.dtype == np.uint8 else pictures.astype(float)
    pictures = np.clip(np.nan_to_num(pictures, nan=0.5), 0.0, 1.0)
    return np.broadcast_to(pictures.transpose(0, 2, 3, 1), (*pictures.shape[:1], *pictures.shape[2:], 3))

"""Data that are images: grids of them, and of originals above their reconstructions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from ppvae.errors import UsageError
from ppvae.plots.arrays import as_pictures
from ppvae.plots.mosaic import alternating, gap_of, show, tile, tops_of, whole_scale
from ppvae.plots.style import DPI, INK, SOFT, STYLE, new_figure, write


def image_grid(images: Any, path: str | Path, rows: int | None = None, title: str | None = None) -> Path:
    """A grid of images (N, C, H, W) in [0, 1], grey (C = 1) or colour (C = 3), row by row.

    Args:
        rows: by default about as many rows as columns. The last row may be short.

    What lies outside [0, 1] is clipped, and NaN is shown in mid-grey. Raises UsageError for another shape.
    """
    pictures = as_pictures(images)
    rows = rows or max(1, round(math.sqrt(len(pictures))))
    if not 1 <= rows <= len(pictures):
        raise UsageError(f"rows={rows} does not fit {len(pictures)} images: use 1 to {len(pictures)}")
    return _write_mosaic(tile(pictures, rows, whole_scale(pictures, rows)), path, title)


def reconstruction_grid(
    x: Any, reconstructed: Any, path: str | Path, columns: int = 10, title: str | None = None
) -> Path:
    """Originals above their reconstructions, two rows at a time, from two tensors (N, C, H, W) in [0, 1].

    Raises UsageError where the shapes differ or are none of images.
    """
    pairs, rows = alternating(x, reconstructed, columns)
    scale = whole_scale(pairs, rows)
    height, width = (scale * side for side in pairs.shape[1:3])
    centres = [top + height / 2 for top in tops_of(rows, height, gap_of(width), by_two=True)[:-1]]
    labels = list(zip(centres, ("data", "reconstructed") * (rows // 2), strict=True))
    return _write_mosaic(tile(pairs, rows, scale, by_two=True), path, title, labels)


def _write_mosaic(
    mosaic: np.ndarray, path: str | Path, title: str | None, labels: Sequence[tuple[float, str]] = ()
) -> Path:
    """The mosaic, one screen pixel for each of its own, under a title and with labels beside its rows."""
    margin, above, left = 15, 54 if title else 15, 150 if labels else 15
    height, width = mosaic.shape[0] + above + margin, mosaic.shape[1] + left + margin
    with mpl.rc_context(STYLE):
        figure = new_figure(width / DPI, height / DPI, constrained=False)  # to the pixel
        place = (left / width, margin / height, mosaic.shape[1] / width, mosaic.shape[0] / height)
        axes = figure.add_axes(place)
        show(axes, mosaic)
        if title:
            figure.text(left / width, 1 - 20 / height, title, fontsize=11, fontweight="bold", va="top")
        for row, (y, label) in enumerate(labels):
            color = SOFT if row % 2 else INK
            axes.text(-10, y, label, ha="right", va="center", fontsize=8, color=color)
        return write(figure, path)

"""Many images (N, H, W, 3) as one, each enlarged by a whole number and never blurred."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ppvae.errors import UsageError
from ppvae.plots.arrays import as_pictures


def alternating(x: Any, reconstructed: Any, columns: int) -> tuple[np.ndarray, int]:
    """Rows of originals, each above the row of their reconstructions, and how many rows there are."""
    originals, copies = as_pictures(x), as_pictures(reconstructed)
    if originals.shape != copies.shape:
        raise UsageError(
            f"data {originals.shape} and reconstructions {copies.shape} differ in shape: give pairs"
        )
    columns = max(1, min(columns, len(originals)))
    blocks = max(1, len(originals) // columns)
    kept = (blocks, columns, *originals.shape[1:])
    both = [part[: blocks * columns].reshape(kept) for part in (originals, copies)]
    return np.stack(both, axis=1).reshape(-1, *originals.shape[1:]), 2 * blocks


def whole_scale(pictures: np.ndarray, rows: int) -> int:
    """A whole number of screen pixels for one of the images', so that the whole is about 900 wide or high."""
    columns = math.ceil(len(pictures) / rows)
    side = max(rows * pictures.shape[1], columns * pictures.shape[2])
    return max(1, round(900 / side)) if side < 1800 else 1


def tops_of(rows: int, height: int, gap: int, by_two: bool) -> list[int]:
    """Where each row begins, and where the last ends; `by_two` draws two rows together and pairs apart."""
    tops = [0]
    for row in range(rows):
        space = gap if not by_two else gap // 3 if row % 2 == 0 else 2 * gap
        tops.append(tops[-1] + height + space)
    return [*tops[:-1], tops[-2] + height]


def gap_of(width: int) -> int:
    return max(3, round(0.06 * width))


def tile(pictures: np.ndarray, rows: int, scale: int = 1, by_two: bool = False) -> np.ndarray:
    """One picture (height, width, 3) of all of them on white, each enlarged by a whole number."""
    count, height, width, _ = pictures.shape
    columns, height, width = math.ceil(count / rows), height * scale, width * scale
    gap = gap_of(width)
    tops = tops_of(rows, height, gap, by_two)
    whole = np.ones((tops[-1], columns * (width + gap) - gap, 3))
    for i, picture in enumerate(pictures.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = tops[i // columns], (i % columns) * (width + gap)
        whole[top : top + height, left : left + width] = picture
    return whole


def show(axes: Axes, mosaic: np.ndarray) -> None:
    axes.imshow(mosaic, interpolation="antialiased")
    axes.set_axis_off()

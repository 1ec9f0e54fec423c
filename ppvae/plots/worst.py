"""The data that the guide serves worst, above their reconstructions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ppvae.errors import UsageError
from ppvae.plots.arrays import array, as_pictures
from ppvae.plots.style import INK, SOFT, STYLE, new_figure

COLUMNS = 8


def worst(x: Any, reconstructed: Any, entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Pictures (N, C, H, W) in [0, 1] with their k-hat, effective sample size and log p(x), eight to a row.

    Args:
        entries: `worst` of `evaluate`, one for each picture.

    Raises:
        UsageError: the numbers differ, or there are none.
    """
    data, copies = as_pictures(x), as_pictures(reconstructed)
    if not len(entries) == len(data) == len(copies) or not len(data):
        raise UsageError(
            f"{len(data)} data, {len(copies)} reconstructions, {len(entries)} entries: give pairs"
        )
    columns, blocks = min(COLUMNS, len(data)), math.ceil(len(data) / COLUMNS)
    side, gap, above, below = 1.1, 0.07, 0.42, 0.42  # inches
    width, block = COLUMNS * (side + gap) + gap, above + 2 * side + gap + below
    height = blocks * block
    with mpl.rc_context(STYLE):
        figure = new_figure(
            width if columns == COLUMNS else columns * (side + gap) + gap, height, constrained=False
        )
        width = figure.get_figwidth()
        for i, entry in enumerate(entries):
            left = gap + (i % COLUMNS) * (side + gap)
            top = height - (i // COLUMNS) * block - above
            for row, picture in enumerate((data[i], copies[i])):
                bottom = top - side - row * (side + gap)
                axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
                axes.imshow(picture, interpolation="nearest")
                axes.set_axis_off()
            size = entry["effective_sample_size"]
            centre = (left + side / 2) / width
            look: dict[str, Any] = {"ha": "center", "fontsize": 8}
            said = f"{_said(entry['k_hat'])}\nESS {_number(size, 3)}"
            figure.text(centre, (top + 0.05) / height, said, color=INK, va="bottom", **look)
            under = (top - 2 * side - gap - 0.05) / height
            told = f"log p {_number(entry['log_likelihood'], 4)}\n#{entry['index']}"
            figure.text(centre, under, told, color=SOFT, va="top", **look)
        return figure


def _said(k_hat: Any) -> str:
    if k_hat is None:
        return "k-hat –"
    value = float(k_hat)
    if math.isinf(value):
        return "dominated" if value > 0 else "exact"
    return f"k-hat {value:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def are_pictures(x: Any) -> bool:
    """Whether `worst` can show them."""
    values = array(x)
    return values.ndim == 4 and values.shape[1] in (1, 3)

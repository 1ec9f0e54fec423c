"""Simulation-based calibration: histograms of ranks that are uniform for the exact posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppvae.plots.style import BLUE, FAINT, RED, SOFT, STYLE, new_figure

COLUMNS = 4


def ranks(found: Mapping[str, Any]) -> Figure:
    """The histograms with the smallest p-values; the band holds 99 in 100 counts of uniform ranks.

    Args:
        found: `calibration` of `evaluate`, or of evaluation.json.
    """
    rows, bins = found["worst"], found["bins"]
    expected = found["n"] / bins
    spread = 2.576 * math.sqrt(expected * (1 - 1 / bins))
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    with mpl.rc_context(STYLE):
        figure = new_figure(
            2.3 * columns if columns == COLUMNS else 9.2 * columns / COLUMNS, 1.75 * lines + 0.35
        )
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
        for axes in grid.flat[len(rows) :]:
            axes.set_axis_off()
        for axes, row in zip(grid.flat, rows, strict=False):
            fails = row["p_value"] * found["ranked"] < found["level"]
            places = (np.arange(bins) + 0.5) / bins
            axes.axhspan(expected - spread, expected + spread, color=FAINT, lw=0, zorder=0)
            axes.axhline(expected, color=SOFT, lw=0.8, zorder=1)
            axes.bar(places, row["counts"], 0.88 / bins, color=RED if fails else BLUE, alpha=0.85, zorder=2)
            axes.set_title(_name(row, found), fontsize=8.5, pad=4)
            axes.set_title(
                _p(row["p_value"]), fontsize=7.5, pad=4, loc="right", fontweight="normal", color=SOFT
            )
            axes.grid(visible=False)
            axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.tick_params(labelsize=7.5, length=2)
        figure.supxlabel(f"rank / {found['draws'] + 1}", fontsize=8.5)
        figure.supylabel("simulated data", fontsize=8.5)
        return figure


def _name(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    single = len(found["quantities"][row["quantity"]]["p_value"]) == 1
    return row["quantity"] if single else f"{row['quantity']}[{row['dimension']}]"


def _p(value: float) -> str:
    return "p < 1e-16" if value < 1e-16 else f"p = {value:.2g}"

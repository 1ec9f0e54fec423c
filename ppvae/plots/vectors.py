"""Data that are no images: scatter plots of two dimensions, histograms of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from ppvae.errors import UsageError
from ppvae.plots.arrays import array, finite, matrix
from ppvae.plots.style import BLUE, RED, STYLE, dot_size, kind_colors, new_figure, write


def pairs_scatter(
    x: Any, generated: Any, path: str | Path, title: str | None = None, label: str = "generated"
) -> Path:
    """The first two dimensions of the data (N, D) beside those of generated data (M, D), on the same axes.

    The axes are those of the data; how much was generated outside them is said. D = 1 becomes two histograms.
    `label` says what the second are, such as "reconstructed".
    """
    data, drawn = matrix(x, "x"), matrix(generated, "generated")
    if data.shape[1] != drawn.shape[1]:
        raise UsageError(f"the data have {data.shape[1]} dimensions, what was {label} {drawn.shape[1]}")
    if data.shape[1] == 1:
        return histograms({"data": data, label: drawn}, path, xlabel="$x$", title=title)
    data, drawn = data[:, :2], drawn[:, :2]
    data = data[np.isfinite(data).all(1)]
    if not len(data):
        raise UsageError("no datum is finite: look at the data for NaN")
    pad = 0.15 * np.maximum(np.ptp(data, axis=0), 1e-9)
    low, high = data.min(0) - pad, data.max(0) + pad
    outside = 1.0 - np.all((drawn >= low) & (drawn <= high), axis=1).mean()
    note = f" ({100 * outside:.0f} % outside)" if outside else ""
    with mpl.rc_context(STYLE):
        figure = new_figure(7.6, 3.9)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, points, name, color in (
            (left, data, "Data", BLUE),
            (right, drawn, f"{label[:1].upper()}{label[1:]}{note}", RED),
        ):
            axes.scatter(*points.T, s=dot_size(len(points)), color=color, alpha=0.6, linewidths=0)
            axes.set(title=name, xlabel="$x_1$", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            axes.xaxis.set_major_locator(MaxNLocator(6))
            axes.yaxis.set_major_locator(MaxNLocator(6))
        left.set_ylabel("$x_2$")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return write(figure, path)


def histograms(
    values: Mapping[str, Any], path: str | Path, xlabel: str = "", title: str | None = None
) -> Path:
    """Densities of one or more samples by name, of any shapes, over common bins.

    NaN and infinities are left out; the bins span all but the outermost thousandth at each end. Raises
    UsageError where nothing can be drawn.
    """
    samples = {name: finite(array(sample)) for name, sample in values.items()}
    if not samples or any(len(sample) == 0 for sample in samples.values()):
        raise UsageError(
            "there is nothing to draw a histogram of: give at least one finite number for each name"
        )
    every = np.concatenate(list(samples.values()))
    low, high = np.quantile(every, [0.001, 0.999])
    edges = np.linspace(
        low, high if high > low else low + 1.0, int(np.clip(2 * np.cbrt(len(every)), 12, 60)) + 1
    )
    with mpl.rc_context(STYLE):
        figure = new_figure(5.4, 3.4)
        axes = figure.subplots()
        colors = (BLUE, RED) if len(samples) <= 2 else kind_colors(len(samples))
        for (name, sample), color in zip(samples.items(), colors, strict=False):
            axes.hist(sample, edges, density=True, histtype="stepfilled", color=color, alpha=0.18)
            axes.hist(sample, edges, density=True, histtype="step", color=color, lw=1.6, label=name)
        axes.set(xlabel=xlabel, ylabel="density", title=title or "")
        axes.grid(axis="x", visible=False)
        if len(samples) > 1:
            axes.legend(ncols=1 + len(samples) // 6)
        return write(figure, path)

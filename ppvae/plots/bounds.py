"""Bounds on log p(x) side by side: annealed chains, both sides of the sandwich, the two gaps of a guide, and
the rate-distortion curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppvae.plots.style import BLUE, INK, RED, SKY, SOFT, STYLE, new_figure


def sandwich(found: Mapping[str, Any]) -> Figure:
    """How far the bounds lie from that of importance sampling, on the same data; and datum by datum how far
    the two sides of log p(x) are apart.

    Args:
        found: `ais` of `evaluate`, or of evaluation.json.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(9.0, 3.3)
        left, right = figure.subplots(1, 2)
        _side_by_side(left, found)
        _gaps_by_datum(right, found)
        return figure


def _side_by_side(axes: Axes, found: Mapping[str, Any]) -> None:
    rows = [
        ("annealed, on the data", found["ais_lower"], found["ais_lower_stderr"], BLUE),
        (f"importance sampling, K = {found['k']}", found["importance"], found["importance_stderr"], SKY),
    ]
    rows = [row for row in rows if row[1] is not None]
    names = [row[0] for row in rows]
    for i, (_, value, error, color) in enumerate(rows):
        axes.errorbar(value, i, xerr=error, fmt="o", color=color, capsize=3, ms=6)
        axes.annotate(f"{value:.2f}", (value, i), (0, 9), textcoords="offset points", ha="center", fontsize=8)
    difference, error = found["ais_above_importance"], found["ais_above_importance_stderr"]
    axes.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.4, -0.7))
    axes.set(xlabel="nats per datum", title="Lower bounds on log p(x)")
    if difference is not None:
        spread = "" if error is None else f" ± {error:.3f}"
        axes.text(
            0.0, -0.34, f"annealed higher by {difference:.3f}{spread}, datum by datum", fontsize=8,
            transform=axes.transAxes, color=SOFT,
        )  # fmt: skip
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.25)


def _gaps_by_datum(axes: Axes, found: Mapping[str, Any]) -> None:
    gaps = np.array(found["bdmc_gap_each"] or [], dtype=float)
    gaps = gaps[np.isfinite(gaps)]
    whose = "data that the model drew" if found["bdmc_simulated"] else "data"
    axes.set(
        title="Upper bound less lower bound",
        xlabel=f"nats, {len(gaps)} {whose}",
        ylabel="data",
    )
    axes.grid(axis="x", visible=False)
    if not len(gaps) or np.abs(gaps).max() < 1e-6:
        said = "both sides meet" if len(gaps) else "no upper bounds"
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, said, ha="center", va="center", color=SOFT, transform=axes.transAxes)
        return
    axes.hist(gaps, bins=min(30, max(8, len(gaps) // 4)), color=SKY, ec="white", lw=0.6)
    axes.axvline(0.0, color=SOFT, lw=0.8)
    axes.axvline(gaps.mean(), color=INK, lw=1, ls=(0, (4, 3)))
    axes.margins(y=0.2)
    axes.annotate(
        f"mean {gaps.mean():.3g}", (gaps.mean(), 0.985), (4, 0), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="top", fontsize=8, color=SOFT,
    )  # fmt: skip


def rate_distortion(found: Mapping[str, Any]) -> Figure:
    """Distortion over rate of the best codes of a model, by beta, and where the guide lies on the same data.

    Args:
        found: `rate_distortion` of `evaluate`, or of evaluation.json.
    """
    betas, rates, distortions = (
        np.array([row[name] for row in found["curve"]], dtype=float)
        for name in ("beta", "rate", "distortion")
    )
    with mpl.rc_context(STYLE):
        figure = new_figure(6.0, 4.0)
        axes = figure.subplots()
        axes.plot(
            rates, distortions, color=BLUE, marker="o", ms=4.5, mec="white", mew=0.7, label="best codes"
        )
        last = np.full(2, np.inf)
        for point, beta in zip(np.stack([rates, distortions], 1), betas, strict=True):
            here = point / (np.array([np.ptp(rates), np.ptp(distortions)]) + 1e-12)
            if np.abs(here - last).max() < 0.05:  # its name would lie on the last one's
                continue
            last = here
            name = f"β = {beta:g}" if beta >= 1 else f"1/{1 / beta:g}"
            axes.annotate(name, point, (6, 4), textcoords="offset points", fontsize=7.5, color=SOFT)
        guide = (found["guide"]["rate"], found["guide"]["distortion"])
        axes.plot(*guide, "*", color=RED, ms=13, mec="white", mew=0.8, label="the guide, β = 1")
        axes.set(xlabel="rate (nats per datum)", ylabel="distortion (nats per datum)")
        axes.set_title("Rate and distortion of the model")
        axes.margins(0.1)
        axes.legend()
        return figure

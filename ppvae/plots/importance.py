"""What importance weights tell: how the bound tightens with K, and how far each datum's weights hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ppvae.plots.style import BLUE, GREEN, INK, RED, SKY, SOFT, STYLE, new_figure

AMBER = "#E69F00"
GOOD, TRUSTED = 0.5, 0.7


def k_curve(results: Mapping[str, Any]) -> Figure:
    """The bound over K on the left; on the right how far it lies below the last, on logarithmic axes.

    Args:
        results: of `evaluate`, or evaluation.json; read are `k_curve` and `n`.
    """
    rows = results["k_curve"]
    k, bound, below, error = (
        np.array([row[name] if row[name] is not None else np.nan for row in rows], dtype=float)
        for name in ("k", "bound", "below_last", "below_last_stderr")
    )
    with mpl.rc_context(STYLE):
        figure = new_figure(9.0, 3.5)
        left, right = figure.subplots(1, 2)
        left.fill_between(k, bound - error, bound + error, color=BLUE, alpha=0.18, linewidth=0)
        left.plot(k, bound, color=BLUE, marker="o", ms=4.5, mec="white", mew=0.7)
        left.set(xscale="log", xlabel="K", ylabel="nats per datum", title="Bound on log p(x) with K draws")
        if len(k) > 1 and np.isfinite(bound[-1]):
            left.annotate(
                f"{bound[-1]:.2f}", (k[-1], bound[-1]), (0, 7), textcoords="offset points",
                ha="right", fontsize=8.5, color=BLUE, fontweight="bold",
            )  # fmt: skip
        left.margins(y=0.14)
        _below(right, k, np.where(below > 1e-9 * np.abs(bound), below, 0.0), error)  # not by rounding
        for axes in (left, right):
            if axes.get_xscale() == "log":
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return figure


def _below(axes: Axes, k: np.ndarray, below: np.ndarray, error: np.ndarray) -> None:
    axes.set(xlabel="K", ylabel="nats per datum", title=f"Below the bound at K = {k[-1]:.0f}")
    shown = (below > 0) & np.isfinite(below)
    if not shown.any():
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no difference", ha="center", va="center", color=SOFT, transform=axes.transAxes)
        return
    axes.set(xscale="log", yscale="log")
    k, below, error = k[shown], below[shown], error[shown]
    low = np.maximum(below - error, below * 1e-2)
    axes.fill_between(k, low, below + error, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(k, below, color=BLUE, marker="o", ms=4.5, mec="white", mew=0.7, label="measured")
    axes.plot(k, below[0] * k[0] / k, color=SOFT, lw=1.2, ls=(0, (4, 3)), label="as 1 / K")
    axes.legend()


def k_hat(results: Mapping[str, Any]) -> Figure:
    """How many data have which k-hat, and which effective sample size.

    Args:
        results: of `evaluate`, or evaluation.json; read are `k_hat`, which may be None, and
            `effective_sample_size`.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(9.0, 3.4)
        left, right = figure.subplots(1, 2)
        _k_hats(left, results["k_hat"])
        handles, labels = left.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside upper left", ncols=len(handles), handlelength=1)
        _sizes(right, results["effective_sample_size"])
        return figure


def _k_hats(axes: Axes, found: Mapping[str, Any] | None) -> None:
    axes.set(title="Pareto k-hat of each datum", xlabel="k-hat", ylabel="data")
    axes.grid(axis="x", visible=False)
    counts = np.array(found["histogram"]["counts"] if found else [])
    if found is None or not counts.sum():
        why = "too few draws for a k-hat" if found is None else "no datum has a tail: the weights are equal"
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, why, ha="center", va="center", color=SOFT, transform=axes.transAxes)
        return
    edges = np.array(found["histogram"]["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    zones = [
        (middle < GOOD, GREEN, f"below {GOOD}: finite variance"),
        ((middle >= GOOD) & (middle < TRUSTED), AMBER, f"{GOOD} to {TRUSTED}: of use"),
        (middle >= TRUSTED, RED, f"above {TRUSTED}: not to be trusted"),
    ]
    for zone, color, label in zones:
        shown = np.where(zone, counts, 0)
        axes.bar(
            edges[:-1], shown, np.diff(edges), align="edge", color=color, ec="white", lw=0.6, label=label
        )
    for value in (GOOD, TRUSTED):
        axes.axvline(value, color=INK, lw=1, ls=(0, (4, 3)))
    low, high = min(edges[0], GOOD - 0.2), max(edges[-1], TRUSTED + 0.2)
    axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axes.margins(y=0.08)


def _sizes(axes: Axes, found: Mapping[str, Any]) -> None:
    edges, counts = np.array(found["histogram"]["edges"]), np.array(found["histogram"]["counts"])
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=SKY, ec="white", lw=0.6)
    median = found["quantiles"].get("0.5")
    if median is not None:
        axes.axvline(median, color=INK, lw=1, ls=(0, (4, 3)))
        right = median > np.sqrt(edges[-1])
        axes.annotate(
            f"median {median:.3g}", (median, 0.985), (-4 if right else 4, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="right" if right else "left",
            va="top", fontsize=8, color=SOFT,
        )  # fmt: skip
    axes.margins(y=0.2)
    axes.set(xscale="log", title="Effective sample size of each datum", ylabel="data")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"(sum w)² / sum w², of K = {found['of']}")
    axes.grid(axis="x", visible=False)

"""What metrics.jsonl says of a training, over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from ppvae.plots.style import BLUE, GREEN, RED, SKY, SOFT, STYLE, new_figure, write


def curves(
    metrics: Sequence[Mapping[str, Any]], path: str | Path, title: str | None = None, bound: bool = True
) -> Path:
    """The elbo in training and validation, and the rate and distortion beside it, over steps.

    Args:
        metrics: entries with `step` and any of `elbo`, `valid_elbo`, `rate`, `distortion`, in nats per datum.
            What is missing or not finite leaves a gap; a panel with nothing to show says so.
        bound: False for a pair whose objective is no bound on log p(x): it is then not called an elbo.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(9.0, 3.4)
        left, right = figure.subplots(1, 2)
        elbo_panel(left, metrics, bound)
        _rate_panel(right, metrics, bound)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return write(figure, path)


def elbo_panel(axes: Axes, metrics: Sequence[Mapping[str, Any]], bound: bool = True) -> None:
    train, valid = _series(metrics, "elbo"), _series(metrics, "valid_elbo")
    lines = [
        _line(axes, train, "training", SKY, fine=True),
        _line(axes, valid, "validation", BLUE, marks=True),
    ]
    title, name = ("Evidence lower bound", "elbo") if bound else ("Objective, no bound", "objective")
    axes.set(title=title, xlabel="step", ylabel=f"{name} (nats per datum)")
    _finish(axes, [train, valid], any(lines), falling=False)


def _rate_panel(axes: Axes, metrics: Sequence[Mapping[str, Any]], bound: bool) -> None:
    rate, distortion = _series(metrics, "rate"), _series(metrics, "distortion")
    lines = [
        _line(axes, distortion, "distortion  $-\\mathrm{E}\\,\\log p(x\\,|\\,z)$", RED),
        _line(axes, rate, "rate  KL$(q\\,\\|\\,p)$" if bound else "terms of the latents, no KL", GREEN),
    ]
    axes.set(
        title="Rate and distortion" if bound else "Distortion and the rest",
        xlabel="step",
        ylabel="nats per datum",
    )
    _finish(axes, [rate, distortion], any(lines), falling=True)


def _series(metrics: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(2, n): steps and values, by step; NaN for what is not finite."""
    found = [(entry["step"], _number(entry[name])) for entry in metrics if "step" in entry and name in entry]
    return np.array(sorted(found, key=lambda point: point[0]), dtype=float).reshape(-1, 2).T


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _line(
    axes: Axes, series: np.ndarray, label: str, color: str, fine: bool = False, marks: bool = False
) -> bool:
    """Draw a series, with marks where there are few points; False where there is nothing."""
    points = np.isfinite(series[1]).sum()
    if points == 0:
        return False
    marker = "o" if points <= (30 if marks else 3) else ""
    look: dict[str, Any] = {
        "marker": marker,
        "ms": 3.8,
        "mec": "white",
        "mew": 0.6,
        "lw": 1.3 if fine else 1.8,
    }
    axes.plot(*series, color=color, label=label, zorder=3 if marks else 2, **look)
    return True


def _finish(axes: Axes, series: Sequence[np.ndarray], any_line: bool, falling: bool) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x", visible=False)
    if not any_line:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing logged", ha="center", va="center", color=SOFT, transform=axes.transAxes)
        return
    _leave_out_the_start(axes, series, falling)
    axes.margins(x=0.02)
    axes.legend(loc="best")


def _leave_out_the_start(axes: Axes, series: Sequence[np.ndarray], falling: bool) -> None:
    """Let the first steps, far from all the rest, run off the panel instead of flattening it."""
    values = np.concatenate([row[1][np.isfinite(row[1])] for row in series])
    if len(values) < 20:
        return
    sign = 1.0 if falling else -1.0
    badness = np.sort(sign * values)
    low, most, worst = badness[0], badness[int(0.97 * (len(badness) - 1))], badness[-1]
    if worst - low > 2.0 * (most - low) > 0:
        edges = sorted((sign * (low - 0.06 * (most - low)), sign * (most + 0.25 * (most - low))))
        axes.set_ylim(*edges)

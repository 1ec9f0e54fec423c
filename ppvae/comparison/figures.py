"""The figures of a comparison: curves, differences, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from ppvae.comparison.blocks import CLEAR, UPPER
from ppvae.comparison.cells import METRICS, Cell
from ppvae.comparison.findings import GroupFinding, Laboratory
from ppvae.comparison.words import short_names
from ppvae.plots.style import BLUE, GREEN, RED, SOFT, STYLE, kind_colors, new_figure

if TYPE_CHECKING:
    from ppvae.comparison.result import Comparison

GRID_POINTS = 200
NAMES = {"elbo": "test elbo", "log_likelihood": "test log p(x)"}
GROUP_LOOKS = {"model": (BLUE, "o"), "guide": (RED, "D")}


def figures(comparison: Comparison) -> dict[str, Figure]:
    """By name, those that there is something for."""
    found: dict[str, Figure | None] = {}
    with mpl.rc_context(STYLE):
        if comparison.cells:
            found["curves"] = curves(comparison)
            found["differences"] = differences(comparison)
        if comparison.laboratory is not None:
            found["gradients"] = gradients(comparison.laboratory)
    return {name: figure for name, figure in found.items() if figure is not None}


# ---- curves


def curves(comparison: Comparison) -> Figure | None:
    """Test bounds over steps and over seconds: the mean over seeds, and the range of the seeds as a band.

    Of trainings that went some way: one that was refused, or broke down at once, has no line and no colour.
    """
    metrics = [m for m in METRICS if any(_points(c, m, "step") for c in comparison.cells)]
    if not metrics:
        return None
    figure = new_figure(10.0, 0.7 + 3.3 * len(metrics))
    panels = figure.subplots(len(metrics), 2, sharey="row", squeeze=False)
    trained = {c.estimator for c in comparison.cells for m in metrics if _points(c, m, "step")}
    names = [name for name in comparison.estimators if name in trained]
    colors = dict(zip(names, kind_colors(len(names)), strict=True))
    labels = short_names(comparison.estimators)
    for (left, right), metric in zip(panels, metrics, strict=True):
        for axes, axis in ((left, "step"), (right, "seconds")):
            found = [
                _curve(axes, comparison.of(name), metric, axis, colors[name], labels[name]) for name in names
            ]
            drawn = [line for line in found if line is not None]
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.grid(axis="x", visible=False)
            axes.margins(x=0.02)
            if axis == "step":
                _leave_out_the_start(axes, drawn)
        left.xaxis.set_major_formatter(EngFormatter(sep=""))
        left.set(xlabel="step", ylabel=f"{NAMES[metric]} (nats per datum)")
        right.set_xlabel("seconds of training")
    panels[0][0].set_title("Over steps")
    panels[0][1].set_title("Over seconds")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(5, max(1, len(labels))))
    return figure


def _points(cell: Cell, metric: str, axis: str) -> list[tuple[float, float]]:
    """What there is to draw of a training; one point is no curve."""
    if cell.status not in ("done", "diverged"):
        return []
    points = [(p[axis], p[metric]) for p in cell.curve if p.get(metric) is not None]
    kept = [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(y)]
    return kept if len(kept) > 1 else []


def _curve(
    axes: Axes, cells: Sequence[Cell], metric: str, axis: str, color: str, label: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw one estimator; returns its x and mean."""
    found = [_points(cell, metric, axis) for cell in cells]
    lines = [np.array(points, dtype=float).T for points in found if points]
    if not lines:
        return None
    end = min(line[0, -1] for line in lines)
    common = all(line.shape == lines[0].shape and np.array_equal(line[0], lines[0][0]) for line in lines)
    x = lines[0][0] if common else np.linspace(max(line[0, 0] for line in lines), end, GRID_POINTS)
    values = np.stack([np.interp(x, line[0], line[1]) for line in lines])
    mean = values.mean(0)
    axes.plot(x, mean, color=color, label=label, marker="o" if common else "", ms=3, mec="white", mew=0.4)
    if len(lines) > 1:
        axes.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.18, lw=0)
    return x, mean


def _leave_out_the_start(axes: Axes, drawn: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Let the first points, far below all the rest, run off the panel instead of flattening it."""
    later = [mean[x >= x[0] + 0.2 * (x[-1] - x[0])] for x, mean in drawn]
    if not later:
        return
    low, high = min(line.min() for line in later), max(line.max() for line in later)
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))


# ---- differences


def differences(comparison: Comparison) -> Figure | None:
    """Paired differences to the first estimator with their 95 % intervals, each seed as a dot."""
    others = [n for n in comparison.estimators[1:] if any(comparison.difference(n, m) for m in METRICS)]
    metrics = [m for m in METRICS if any(comparison.difference(name, m) for name in others)]
    if not metrics:
        return None
    figure = new_figure(10.0, 1.3 + 0.42 * len(others))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    labels = short_names(comparison.estimators)
    base = labels[comparison.baseline]
    for axes, metric in zip(panels, metrics, strict=True):
        for i, name in enumerate(others):
            _interval(axes, comparison, name, metric, i)
        axes.axvline(0.0, color=SOFT, lw=1.0, zorder=1)
        axes.set(title=NAMES[metric].capitalize(), xlabel=f"nats per datum above {base}")
        axes.grid(axis="y", visible=False)
    _name_rows(panels[0], [labels[name] for name in others])
    return figure


def _interval(axes: Axes, comparison: Comparison, name: str, metric: str, row: int) -> None:
    difference = comparison.difference(name, metric)
    if difference is None:
        return
    own, base = comparison.finals(name, metric), comparison.finals(comparison.baseline, metric)
    if difference.low is None or difference.high is None:  # nothing says that it is more than chance
        axes.plot(difference.mean, row, "o", color=BLUE, mfc="white", ms=6, mew=1.6)
        return
    seeds = [own[seed] - base[seed] for seed in own.keys() & base.keys()]
    axes.plot(seeds, [row + 0.2] * len(seeds), "o", color=SOFT, ms=3.5, mew=0, zorder=2)
    clear = difference.low > 0 or difference.high < 0
    axes.plot([difference.low, difference.high], [row, row], color=BLUE, lw=2.2, zorder=3)
    axes.plot(difference.mean, row, "o", color=BLUE, mfc=BLUE if clear else "white", ms=6, mew=1.6, zorder=4)


# ---- gradients


def gradients(laboratory: Laboratory) -> Figure | None:
    """One row an estimator, one panel a measure, one mark a group of parameters.

    What no logarithmic axis holds stands at its edge, 0 on the left and infinity on the right.
    """
    probes = [p for p in laboratory.probes if p.line is None and p.groups]
    if not probes:
        return None
    groups = list(dict.fromkeys(group for p in probes for group in p.groups))
    panels: list[tuple[str, str, Callable[[GroupFinding], float | None]]] = [
        ("Bias", "nats per datum", lambda f: None if f.bias is None else f.bias.value),
        ("Variance", "summed over parameters", lambda f: f.variance.value),
        ("SNR", "|mean| / sd", lambda f: f.snr),
        ("DSNR", "along / astray", lambda f: None if f.dsnr is None else f.dsnr.value),
        ("Variance x time", "seconds", lambda f: f.variance_time),
    ]
    figure = new_figure(11.0, 1.5 + 0.42 * len(probes))
    drawn = figure.subplots(1, len(panels), sharey=True)
    for axes, (title, unit, read) in zip(drawn, panels, strict=True):
        found, edges = False, False
        for g, group in enumerate(groups):
            color, marker = GROUP_LOOKS.get(group, (GREEN, "s"))
            for row, probed in enumerate(probes):
                if group in probed.groups:
                    value, filled = _value(title, probed.groups[group].shown(), read)
                    if value is None or math.isnan(value):
                        continue
                    if 0 < value < math.inf:
                        fill = color if filled else "white"
                        at = row + 0.16 * (g - (len(groups) - 1) / 2)
                        axes.plot(value, at, marker, color=color, mfc=fill, ms=6, mew=1.4)
                        found = True
                    else:
                        _at_the_edge(axes, value, row, g if value <= 0 else len(groups) - 1 - g, color)
                        edges = True
        axes.set(title=title, xlabel=unit)
        axes.grid(axis="y", visible=False)
        _scale(axes, found, edges)
    labels = short_names(p.estimator for p in probes)
    _name_rows(drawn[0], [labels[p.estimator] for p in probes])
    figure.legend(handles=[_handle(group) for group in groups], loc="outside upper left", ncols=len(groups))
    return figure


def _handle(group: str) -> Line2D:
    color, marker = GROUP_LOOKS.get(group, (GREEN, "s"))
    return Line2D([], [], color=color, marker=marker, ls="", ms=6, mew=1.4, label=group)


def _value(
    title: str, finding: GroupFinding, read: Callable[[GroupFinding], float | None]
) -> tuple[float | None, bool]:
    """(what to mark, whether filled): a bias that is not seen has a hollow mark two standard errors above."""
    if title == "Bias" and finding.bias is not None and (finding.z or 0.0) <= CLEAR:
        return finding.bias.value + UPPER * (finding.bias.stderr or 0.0), False
    return read(finding), True


def _at_the_edge(axes: Axes, value: float, row: int, place: int, color: str) -> None:
    """0 or infinity, in the `place`-th of the places that groups have beside each other, from the edge."""
    left, away = value <= 0, 3.0 + 9.0 * place
    axes.annotate(
        "0" if left else "∞", (0.0 if left else 1.0, row), (away if left else -away, 0.0),
        xycoords=axes.get_yaxis_transform(), textcoords="offset points", ha="left" if left else "right",
        va="center", color=color, fontweight="bold", bbox={"fc": "white", "ec": "none", "pad": 0.5},
    )  # fmt: skip


def _scale(axes: Axes, found: bool, edges: bool) -> None:
    if not found:
        axes.set_xticks([])
        if not edges:
            axes.text(0.5, 0.5, "none", ha="center", va="center", color=SOFT, transform=axes.transAxes)
        return
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15)
    ticks = log_ticks(*axes.get_xlim())
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])


def log_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Up to `most` round numbers in [low, high], as many as there is room for; the middle where none is."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**decade for decade in decades for d in digits]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) <= most:
            return found or [math.sqrt(low * high)]
    return found[:: math.ceil(len(found) / most)]


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)

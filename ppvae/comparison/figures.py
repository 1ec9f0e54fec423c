"""The figures of a comparison: curves, differences, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from ppvae.comparison.blocks import CLEAR
from ppvae.comparison.cells import METRICS
from ppvae.comparison.findings import GroupFinding, Laboratory
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
    """Test bounds over steps and over seconds: the mean over seeds, and the range of the seeds as a band."""
    metrics = [m for m in METRICS if any(m in point for c in comparison.cells for point in c.curve)]
    if not metrics:
        return None
    figure = new_figure(10.0, 0.7 + 3.3 * len(metrics))
    panels = figure.subplots(len(metrics), 2, sharey="row", squeeze=False)
    colors = dict(zip(comparison.estimators, kind_colors(len(comparison.estimators)), strict=True))
    for (left, right), metric in zip(panels, metrics, strict=True):
        for axes, axis in ((left, "step"), (right, "seconds")):
            found = [
                _curve(axes, comparison, name, metric, axis, colors[name]) for name in comparison.estimators
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


def _curve(
    axes: Axes, comparison: Comparison, name: str, metric: str, axis: str, color: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw one estimator; returns its x and mean."""
    lines = []
    for cell in comparison.of(name):
        points = [(p[axis], p[metric]) for p in cell.curve if p.get(metric) is not None]
        kept = [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(y)]
        if kept:
            lines.append(np.array(kept, dtype=float).T)
    if not lines:
        return None
    end = min(line[0, -1] for line in lines)
    common = all(line.shape == lines[0].shape and np.array_equal(line[0], lines[0][0]) for line in lines)
    x = lines[0][0] if common else np.linspace(max(line[0, 0] for line in lines), end, GRID_POINTS)
    values = np.stack([np.interp(x, line[0], line[1]) for line in lines])
    mean = values.mean(0)
    axes.plot(x, mean, color=color, label=name, marker="o" if common else "", ms=3, mec="white", mew=0.4)
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
    others = comparison.estimators[1:]
    metrics = [m for m in METRICS if any(comparison.difference(name, m) for name in others)]
    if not metrics:
        return None
    figure = new_figure(10.0, 1.3 + 0.42 * len(others))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    base = comparison.baseline
    for axes, metric in zip(panels, metrics, strict=True):
        for i, name in enumerate(others):
            _interval(axes, comparison, name, metric, i)
        axes.axvline(0.0, color=SOFT, lw=1.0, zorder=1)
        axes.set(title=NAMES[metric].capitalize(), xlabel=f"nats per datum above {base}")
        axes.grid(axis="y", visible=False)
    _name_rows(panels[0], others)
    return figure


def _interval(axes: Axes, comparison: Comparison, name: str, metric: str, row: int) -> None:
    difference = comparison.difference(name, metric)
    if difference is None:
        return
    own, base = comparison.finals(name, metric), comparison.finals(comparison.baseline, metric)
    seeds = [own[seed] - base[seed] for seed in own.keys() & base.keys()]
    axes.plot(seeds, [row + 0.2] * len(seeds), "o", color=SOFT, ms=3.5, mew=0, zorder=2)
    if difference.low is None or difference.high is None:
        axes.plot(difference.mean, row, "o", color=BLUE, ms=6)
        return
    clear = difference.low > 0 or difference.high < 0
    axes.plot([difference.low, difference.high], [row, row], color=BLUE, lw=2.2, zorder=3)
    axes.plot(difference.mean, row, "o", color=BLUE, mfc=BLUE if clear else "white", ms=6, mew=1.6, zorder=4)


# ---- gradients


def gradients(laboratory: Laboratory) -> Figure | None:
    """One row an estimator, one panel a measure, one mark a group of parameters."""
    probes = [p for p in laboratory.probes if p.refused is None and p.groups]
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
        found = False
        for g, group in enumerate(groups):
            color, marker = GROUP_LOOKS.get(group, (GREEN, "s"))
            for row, probed in enumerate(probes):
                if group in probed.groups:
                    at = row + 0.16 * (g - (len(groups) - 1) / 2)
                    found |= _mark(axes, title, probed.groups[group].shown(), read, at, color, marker, group)
        axes.set(title=title, xlabel=unit)
        axes.grid(axis="y", visible=False)
        _scale(axes, found)
    _name_rows(drawn[0], [p.estimator for p in probes])
    handles = {label: h for axes in drawn for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=len(handles))
    return figure


def _mark(
    axes: Axes,
    title: str,
    finding: GroupFinding,
    read: Callable[[GroupFinding], float | None],
    at: float,
    color: str,
    marker: str,
    group: str,
) -> bool:
    """One mark; a bias that is not clear is an upper limit, drawn hollow at its standard error."""
    value, filled = read(finding), True
    if title == "Bias" and finding.bias is not None:
        filled = (finding.z or 0.0) > CLEAR
        if not filled:
            value = finding.bias.value + (finding.bias.stderr or 0.0)
    if value is None or not math.isfinite(value) or value <= 0:
        return False
    fill = color if filled else "white"
    axes.plot(value, at, marker, color=color, mfc=fill, ms=6, mew=1.4, label=group if filled else None)
    return True


def _scale(axes: Axes, found: bool) -> None:
    if not found:
        axes.set_xticks([])
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

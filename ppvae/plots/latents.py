"""Latent codes in the plane, with the names of their kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ppvae.errors import UsageError
from ppvae.plots.arrays import array, matrix
from ppvae.plots.style import BLUE, INK, STYLE, dot_size, kind_colors, new_figure, write
from ppvae.plots.vectors import histograms


def latent_scatter(z: Any, labels: Any, path: str | Path, title: str | None = None) -> Path:
    """Latent codes (N, D), coloured by `labels` (N,): names and whole numbers are kinds, fractions a scale.

    D = 1 becomes a histogram; of D > 2 the two principal components are shown, with their share of the
    variance. `labels` may be None. Codes that are not finite are left out.
    """
    codes = matrix(z, "z")
    kinds = None if labels is None else array(labels).reshape(-1)
    if kinds is not None and len(kinds) != len(codes):
        raise UsageError(f"{len(codes)} codes and {len(kinds)} labels: give one label for each code")
    finite = np.isfinite(codes).all(1)
    codes, kinds = codes[finite], None if kinds is None else kinds[finite]
    if not len(codes):
        raise UsageError("no latent code is finite: look at the parameters for NaN")
    title = title or "Latent codes"
    if codes.shape[1] == 1:
        names = [] if kinds is None or not _are_kinds(kinds) else list(np.unique(kinds))
        named = {_name(name): codes[kinds == name] for name in names} or {"z": codes}
        return histograms(named, path, xlabel="$z$", title=title)
    points, axis_names = _plane(codes)
    with mpl.rc_context(STYLE):
        figure = new_figure(5.4, 5.0)
        axes = figure.subplots()
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1], title=title)
        axes.set_aspect("equal", adjustable="datalim")
        _scatter_kinds(figure, axes, points, kinds)
        return write(figure, path)


def _plane(codes: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    if codes.shape[1] == 2:
        return codes, ("$z_1$", "$z_2$")
    centred = codes - codes.mean(0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.where(axes[:2].sum(1, keepdims=True) < 0, -1.0, 1.0)  # a fixed sign, run after run
    share = 100 * lengths**2 / max((lengths**2).sum(), 1e-30)
    first, second = (f"principal component {i + 1} ({share[i]:.0f} % of variance)" for i in (0, 1))
    return centred @ axes.T, (first, second)


def _scatter_kinds(figure: Figure, axes: Axes, points: np.ndarray, kinds: np.ndarray | None) -> None:
    look: dict[str, Any] = {"s": dot_size(len(points)), "linewidths": 0, "alpha": 0.75}
    if kinds is None:
        axes.scatter(*points.T, color=BLUE, **look)
    elif not _are_kinds(kinds):
        drawn = axes.scatter(*points.T, c=kinds, cmap="cividis", **look)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=30)
        bar.solids.set_alpha(1)  # pyright: ignore[reportOptionalMemberAccess]
        bar.ax.spines[:].set_visible(False)
    else:
        names, index = np.unique(kinds, return_inverse=True)
        colors = kind_colors(len(names))
        axes.scatter(*points.T, color=[colors[i] for i in index], **look)
        centres = np.array([np.median(points[index == i], axis=0) for i in range(len(names))])
        for name, color, spot in zip(names, colors, _apart(centres, points), strict=True):
            _badge(axes, spot, _name(name), color)


def _badge(axes: Axes, spot: np.ndarray, text: str, color: str) -> None:
    red, green, blue = to_rgb(color)
    ink = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.55 else INK
    shape = "circle,pad=0.25" if len(text) == 1 else "round,pad=0.3"
    box = {"boxstyle": shape, "fc": color, "ec": "white", "lw": 1.2}
    axes.text(
        spot[0], spot[1], text, color=ink, fontsize=9, fontweight="bold", ha="center", va="center", bbox=box
    )


def _apart(spots: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Move labels that would cover each other apart, a little at a time."""
    least = 0.062 * float(np.ptp(points, axis=0).max()) + 1e-12
    spots = spots + 1e-6 * least * np.arange(len(spots))[:, None] * np.array([1.0, -0.5])
    for _ in range(200):
        away = spots[:, None] - spots
        distance = np.sqrt((away**2).sum(-1)) + 1e9 * np.eye(len(spots))
        push = np.clip(least - distance, 0.0, None) / 2
        if not push.any():
            break
        spots = spots + (away * (push / distance)[..., None]).sum(1)
    return spots


def _are_kinds(labels: np.ndarray) -> bool:
    """Whether labels are names or at most twenty different whole numbers."""
    if labels.dtype.kind == "f" and not np.all(np.mod(labels, 1) == 0):
        return False
    return labels.dtype.kind not in "iuf" or len(np.unique(labels)) <= 20


def _name(kind: Any) -> str:
    return f"{kind:g}" if isinstance(kind, np.floating) else str(kind)

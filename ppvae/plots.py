"""Pictures of what a pair has learned: each function takes tensors or arrays and writes one PNG.

Nothing here trains, draws random numbers or touches pyplot's global state. Colours are those of Okabe and Ito
(2008), which colour-blind readers can tell apart; more groups than these are named in the picture as well.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from ppvae.errors import UsageError

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip
INK, SOFT, FAINT = "#22272E", "#6B7480", "#E3E6EA"
# Ten kinds that stay apart for colour-blind eyes, by hue and by lightness (after Paul Tol's "muted").
KINDS = (
    "#332288",
    "#88CCEE",
    "#117733",
    "#DDCC77",
    "#CC6677",
    "#44AA99",
    "#882255",
    "#999933",
    "#AA4499",
    "#8C96A3",
)
DPI = 150
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


# ---- images


def image_grid(images: Any, path: str | Path, rows: int | None = None, title: str | None = None) -> Path:
    """A grid of images (N, C, H, W) in [0, 1], grey (C = 1) or colour (C = 3), row by row.

    Args:
        rows: by default about as many rows as columns. The last row may be short.

    What lies outside [0, 1] is clipped, and NaN is shown in mid-grey. Raises UsageError for another shape.
    """
    pictures = _images(images)
    rows = rows or max(1, round(math.sqrt(len(pictures))))
    if not 1 <= rows <= len(pictures):
        raise UsageError(f"rows={rows} does not fit {len(pictures)} images: use 1 to {len(pictures)}")
    return _mosaic_figure(_mosaic(pictures, rows, _scale(pictures, rows)), path, title)


def reconstruction_grid(
    x: Any, reconstructed: Any, path: str | Path, columns: int = 10, title: str | None = None
) -> Path:
    """Originals above their reconstructions, two rows at a time, from two tensors (N, C, H, W) in [0, 1].

    Raises UsageError where the shapes differ or are none of images.
    """
    pairs, rows = _alternating(x, reconstructed, columns)
    scale = _scale(pairs, rows)
    height, width = (scale * side for side in pairs.shape[1:3])
    centres = [top + height / 2 for top in _tops(rows, height, _gap(width), by_two=True)[:-1]]
    labels = list(zip(centres, ("data", "reconstructed") * (rows // 2), strict=True))
    return _mosaic_figure(_mosaic(pairs, rows, scale, by_two=True), path, title, labels)


def _images(images: Any) -> np.ndarray:
    """(N, H, W, 3), floats in [0, 1]."""
    pictures = _array(images)
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or 0 in pictures.shape:
        raise UsageError(
            f"images have shape {tuple(pictures.shape)}: use (N, C, H, W) with C = 1 or 3; for data that "
            "are no images there is pairs_scatter"
        )
    pictures = pictures / 255.0 if pictures.dtype == np.uint8 else pictures.astype(float)
    pictures = np.clip(np.nan_to_num(pictures, nan=0.5), 0.0, 1.0)
    return np.broadcast_to(pictures.transpose(0, 2, 3, 1), (*pictures.shape[:1], *pictures.shape[2:], 3))


def _alternating(x: Any, reconstructed: Any, columns: int) -> tuple[np.ndarray, int]:
    originals, copies = _images(x), _images(reconstructed)
    if originals.shape != copies.shape:
        raise UsageError(
            f"data {originals.shape} and reconstructions {copies.shape} differ in shape: give pairs"
        )
    columns = max(1, min(columns, len(originals)))
    blocks = max(1, len(originals) // columns)
    kept = (blocks, columns, *originals.shape[1:])
    both = [part[: blocks * columns].reshape(kept) for part in (originals, copies)]
    return np.stack(both, axis=1).reshape(-1, *originals.shape[1:]), 2 * blocks


def _scale(pictures: np.ndarray, rows: int) -> int:
    """A whole number of screen pixels for one of the images', so that the whole is about 900 wide or high."""
    columns = math.ceil(len(pictures) / rows)
    side = max(rows * pictures.shape[1], columns * pictures.shape[2])
    return max(1, round(900 / side)) if side < 1800 else 1


def _tops(rows: int, height: int, gap: int, by_two: bool) -> list[int]:
    """Where each row begins, and where the last ends; `by_two` draws two rows together and pairs apart."""
    tops = [0]
    for row in range(rows):
        space = gap if not by_two else gap // 3 if row % 2 == 0 else 2 * gap
        tops.append(tops[-1] + height + space)
    return [*tops[:-1], tops[-2] + height]


def _gap(width: int) -> int:
    return max(3, round(0.06 * width))


def _mosaic(pictures: np.ndarray, rows: int, scale: int = 1, by_two: bool = False) -> np.ndarray:
    """One picture (height, width, 3) of all of them on white, each enlarged by a whole number."""
    count, height, width, _ = pictures.shape
    columns, height, width = math.ceil(count / rows), height * scale, width * scale
    gap = _gap(width)
    tops = _tops(rows, height, gap, by_two)
    whole = np.ones((tops[-1], columns * (width + gap) - gap, 3))
    for i, picture in enumerate(pictures.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = tops[i // columns], (i % columns) * (width + gap)
        whole[top : top + height, left : left + width] = picture
    return whole


def _mosaic_figure(
    mosaic: np.ndarray, path: str | Path, title: str | None, labels: Sequence[tuple[float, str]] = ()
) -> Path:
    """The mosaic, one screen pixel for each of its own, under a title and with labels beside its rows."""
    margin, above, left = 15, 54 if title else 15, 150 if labels else 15
    height, width = mosaic.shape[0] + above + margin, mosaic.shape[1] + left + margin
    with mpl.rc_context(STYLE):
        figure = _figure(width / DPI, height / DPI, constrained=False)  # to the pixel
        place = (left / width, margin / height, mosaic.shape[1] / width, mosaic.shape[0] / height)
        axes = figure.add_axes(place)
        _show(axes, mosaic)
        if title:
            figure.text(left / width, 1 - 20 / height, title, fontsize=11, fontweight="bold", va="top")
        for row, (y, label) in enumerate(labels):
            color = SOFT if row % 2 else INK
            axes.text(-10, y, label, ha="right", va="center", fontsize=8, color=color)
        return _write(figure, path)


def _show(axes: Axes, mosaic: np.ndarray) -> None:
    axes.imshow(mosaic, interpolation="antialiased")
    axes.set_axis_off()


# ---- curves


def curves(metrics: Sequence[Mapping[str, Any]], path: str | Path, title: str | None = None) -> Path:
    """The elbo in training and validation, and the rate and distortion beside it, over steps.

    Args:
        metrics: entries with `step` and any of `elbo`, `valid_elbo`, `rate`, `distortion`, in nats per datum.
            What is missing or not finite leaves a gap; a panel with nothing to show says so.
    """
    with mpl.rc_context(STYLE):
        figure = _figure(9.0, 3.4)
        left, right = figure.subplots(1, 2)
        _elbo_panel(left, metrics)
        _rate_panel(right, metrics)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return _write(figure, path)


def _elbo_panel(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    train, valid = _series(metrics, "elbo"), _series(metrics, "valid_elbo")
    lines = [
        _line(axes, train, "training", SKY, fine=True),
        _line(axes, valid, "validation", BLUE, marks=True),
    ]
    axes.set(title="Evidence lower bound", xlabel="step", ylabel="elbo (nats per datum)")
    _finish(axes, [train, valid], any(lines), falling=False)


def _rate_panel(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    rate, distortion = _series(metrics, "rate"), _series(metrics, "distortion")
    lines = [
        _line(axes, distortion, "distortion  $-\\mathrm{E}\\,\\log p(x\\,|\\,z)$", RED),
        _line(axes, rate, "rate  KL$(q\\,\\|\\,p)$", GREEN),
    ]
    axes.set(title="Rate and distortion", xlabel="step", ylabel="nats per datum")
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
    axes.legend(loc="upper right" if falling else "lower right")


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


# ---- latent space and data that are no images


def latent_scatter(z: Any, labels: Any, path: str | Path, title: str | None = None) -> Path:
    """Latent codes (N, D), coloured by `labels` (N,): names and whole numbers are kinds, fractions a scale.

    D = 1 becomes a histogram; of D > 2 the two principal components are shown, with their share of the
    variance. `labels` may be None. Codes that are not finite are left out.
    """
    codes = _matrix(z, "z")
    kinds = None if labels is None else _array(labels).reshape(-1)
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
        figure = _figure(5.4, 5.0)
        axes = figure.subplots()
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1], title=title)
        axes.set_aspect("equal", adjustable="datalim")
        _scatter_kinds(figure, axes, points, kinds)
        return _write(figure, path)


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
    look: dict[str, Any] = {"s": _dot(len(points)), "linewidths": 0, "alpha": 0.75}
    if kinds is None:
        axes.scatter(*points.T, color=BLUE, **look)
    elif not _are_kinds(kinds):
        drawn = axes.scatter(*points.T, c=kinds, cmap="cividis", **look)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=30)
        bar.solids.set_alpha(1)  # pyright: ignore[reportOptionalMemberAccess]
        bar.ax.spines[:].set_visible(False)
    else:
        names, index = np.unique(kinds, return_inverse=True)
        colors = _colors(len(names))
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


def _colors(count: int) -> list[str]:
    return [KINDS[i % len(KINDS)] for i in range(count)]


def _dot(count: int) -> float:
    return float(np.clip(12_000 / max(count, 1), 3, 24))


def pairs_scatter(x: Any, generated: Any, path: str | Path, title: str | None = None) -> Path:
    """The first two dimensions of the data (N, D) beside those of generated data (M, D), on the same axes.

    The axes are those of the data; how much was generated outside them is said. D = 1 becomes two histograms.
    """
    data, drawn = _matrix(x, "x"), _matrix(generated, "generated")
    if data.shape[1] != drawn.shape[1]:
        raise UsageError(f"the data have {data.shape[1]} dimensions, what was generated {drawn.shape[1]}")
    if data.shape[1] == 1:
        return histograms({"data": data, "generated": drawn}, path, xlabel="$x$", title=title)
    data, drawn = data[:, :2], drawn[:, :2]
    data = data[np.isfinite(data).all(1)]
    if not len(data):
        raise UsageError("no datum is finite: look at the data for NaN")
    pad = 0.15 * np.maximum(np.ptp(data, axis=0), 1e-9)
    low, high = data.min(0) - pad, data.max(0) + pad
    outside = 1.0 - np.all((drawn >= low) & (drawn <= high), axis=1).mean()
    note = f" ({100 * outside:.2g} % outside)" if outside else ""
    with mpl.rc_context(STYLE):
        figure = _figure(7.6, 3.9)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, points, name, color in (
            (left, data, "Data", BLUE),
            (right, drawn, f"Generated{note}", RED),
        ):
            axes.scatter(*points.T, s=_dot(len(points)), color=color, alpha=0.6, linewidths=0)
            axes.set(title=name, xlabel="$x_1$", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            axes.xaxis.set_major_locator(MaxNLocator(6))
            axes.yaxis.set_major_locator(MaxNLocator(6))
        left.set_ylabel("$x_2$")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return _write(figure, path)


def histograms(
    values: Mapping[str, Any], path: str | Path, xlabel: str = "", title: str | None = None
) -> Path:
    """Densities of one or more samples by name, of any shapes, over common bins.

    NaN and infinities are left out; the bins span all but the outermost thousandth at each end. Raises
    UsageError where nothing can be drawn.
    """
    samples = {name: _finite(_array(sample)) for name, sample in values.items()}
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
        figure = _figure(5.4, 3.4)
        axes = figure.subplots()
        colors = (BLUE, RED) if len(samples) <= 2 else _colors(len(samples))
        for (name, sample), color in zip(samples.items(), colors, strict=False):
            axes.hist(sample, edges, density=True, histtype="stepfilled", color=color, alpha=0.18)
            axes.hist(sample, edges, density=True, histtype="step", color=color, lw=1.6, label=name)
        axes.set(xlabel=xlabel, ylabel="density", title=title or "")
        axes.grid(axis="x", visible=False)
        if len(samples) > 1:
            axes.legend(ncols=1 + len(samples) // 6)
        return _write(figure, path)


# ---- the first screen of the README


def hero(
    metrics: Sequence[Mapping[str, Any]],
    samples: Any,
    x: Any,
    reconstructed: Any,
    path: str | Path,
    title: str | None = None,
) -> Path:
    """One wide picture: samples, reconstructions and the learning curve.

    Args:
        metrics: as for `curves`.
        samples: (N, C, H, W) in [0, 1]; the largest square number of them is shown, 64 at most.
        x, reconstructed: (M, C, H, W) in [0, 1]; the first 32 are shown.
    """
    drawn = _images(samples)
    side = min(8, math.isqrt(len(drawn)))
    pairs, rows = _alternating(_array(x)[:32], _array(reconstructed)[:32], 8)
    grey = _array(samples).shape[1] == _array(x).shape[1] == 1
    with mpl.rc_context(STYLE):
        figure = _figure(11.0, 3.85)
        fresh, copies, curve = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        _show(fresh, _mosaic(drawn[: side * side], side, 4))
        fresh.set_title("Generated")
        _show(copies, _mosaic(pairs, rows, 4, by_two=True))
        copies.set_title("Data above, reconstructed below")
        _elbo_panel(curve, metrics)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        return _write(figure, path, palette=grey)


# ---- common parts


def _figure(width: float, height: float, constrained: bool = True) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.07, wspace=0.02) if constrained else None
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, path: str | Path, palette: bool = False) -> Path:
    """`palette`: 256 colours, a third of the size, which pictures without photographs do not show."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB")
    if palette:
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    picture.save(path, format="PNG", optimize=True)
    return path


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.dtype.is_floating_point else values
        return values.numpy()
    return np.asarray(values)


def _matrix(values: Any, name: str) -> np.ndarray:
    """(N, D), of which (N,) is the case D = 1."""
    rows = _array(values).astype(float)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.size:
        raise UsageError(f"{name} has shape {tuple(rows.shape)}: use (N, D)")
    return rows


def _finite(values: np.ndarray) -> np.ndarray:
    values = values.astype(float).reshape(-1)
    return values[np.isfinite(values)]

"""How the pictures look: colours, fonts, and figures that know nothing of pyplot.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; more groups than these
are named in the picture as well.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

BLUE, GREEN, RED, SKY = "#0072B2", "#009E73", "#D55E00", "#56B4E9"
INK, SOFT, FAINT = "#22272E", "#6B7480", "#E3E6EA"
# Ten kinds that stay apart for colour-blind eyes, by hue and by lightness (after Paul Tol's "muted").
KINDS = (
    "#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677",
    "#44AA99", "#882255", "#999933", "#AA4499", "#8C96A3",
)  # fmt: skip
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


def new_figure(width: float, height: float, constrained: bool = True) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.07, wspace=0.02) if constrained else None
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: str | Path, palette: bool = False) -> Path:
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


def kind_colors(count: int) -> list[str]:
    return [KINDS[i % len(KINDS)] for i in range(count)]


def dot_size(count: int) -> float:
    return float(np.clip(12_000 / max(count, 1), 3, 24))

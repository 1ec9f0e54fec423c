"""The first screen of the README: one wide picture of a trained pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from ppvae.plots.arrays import array, as_pictures
from ppvae.plots.mosaic import alternating, show, tile
from ppvae.plots.style import STYLE, new_figure, write
from ppvae.plots.training_curves import elbo_panel


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
    drawn = as_pictures(samples)
    side = min(8, math.isqrt(len(drawn)))
    pairs, rows = alternating(array(x)[:32], array(reconstructed)[:32], 8)
    grey = array(samples).shape[1] == array(x).shape[1] == 1
    with mpl.rc_context(STYLE):
        figure = new_figure(11.0, 3.85)
        fresh, copies, curve = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        show(fresh, tile(drawn[: side * side], side, 4))
        fresh.set_title("Generated")
        show(copies, tile(pairs, rows, 4, by_two=True))
        copies.set_title("Data above, reconstructed below")
        elbo_panel(curve, metrics)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        return write(figure, path, palette=grey)

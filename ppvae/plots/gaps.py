"""What a guide loses, in its two parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ppvae.plots.style import BLUE, INK, RED, SOFT, STYLE, new_figure

AMBER = "#E69F00"


def gaps(found: Mapping[str, Any]) -> Figure:
    """From the elbo up to log p(x): the amortization gap, then the approximation gap.

    Args:
        found: `gaps` of `evaluate`, or of evaluation.json.
    """
    elbo, best, log_p = found["elbo"], found["elbo_best"], found["log_p"]
    parts = (
        (elbo, best, found["amortization_gap_stderr"], AMBER),
        (best, log_p, found["approximation_gap_stderr"], BLUE),
    )
    with mpl.rc_context(STYLE):
        figure = new_figure(9.0, 2.5)
        axes = figure.subplots()
        if abs(log_p - elbo) + abs(best - elbo) < 1e-6 * abs(log_p):
            axes.set(xticks=[], yticks=[])
            said = "no gap: the guide is the posterior"
            axes.text(0.5, 0.5, said, ha="center", va="center", color=SOFT, transform=axes.transAxes)
            return figure
        for row, (low, high, error, color) in enumerate(parts):
            gap = high - low
            axes.barh(row, gap, left=low, height=0.5, color=color if gap >= 0 else RED)
            spread = "" if error is None else f" ± {error:.2f}"
            axes.annotate(
                f"{gap:.2f}{spread}", (max(low, high), row), (6, 0), textcoords="offset points", va="center",
                fontsize=8.5, color=INK,
            )  # fmt: skip
        marks = (("elbo", elbo, "right"), ("best of the family", best, "center"), ("log p(x)", log_p, "left"))
        for name, value, side in marks:
            axes.axvline(value, color=SOFT, lw=1, ls=(0, (4, 3)), zorder=0)
            height = 1.03 if side == "center" else 1.15  # so that close ones stay apart
            axes.annotate(
                f"{name} {value:.2f}", (value, height), xycoords=("data", "axes fraction"), ha=side,
                va="bottom", fontsize=8, color=INK,
            )  # fmt: skip
        axes.set(yticks=[0, 1], yticklabels=["amortization gap", "approximation gap"], ylim=(1.5, -0.5))
        axes.set(xlabel="nats per datum")
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        return figure

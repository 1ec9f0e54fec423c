"""The rate of each latent: what it is made of, and how it lies in the dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ppvae.plots.style import BLUE, FAINT, INK, SKY, SOFT, STYLE, new_figure

AMBER = "#E69F00"
_MOST = 60


def rates(results: Mapping[str, Any]) -> Figure:
    """The rate of each latent site, and below it its parts; beside it the dimension-wise KL, largest first.

    Args:
        results: of `evaluate`, or evaluation.json; read are `sites` and `information`.
    """
    sites = {name: site["rate"] for name, site in results["sites"].items() if site.get("rate") is not None}
    found = {name: parts for name, parts in (results.get("information") or {}).items() if parts}
    each = {name: parts["dimension_kl_each"] for name, parts in found.items() if parts["dimension_kl_each"]}
    with mpl.rc_context(STYLE):
        figure = new_figure(9.0, max(2.6, 1.3 + 0.62 * len(sites) + 0.35))
        if each:
            left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
            _by_dimension(right, each)
        else:
            left = figure.subplots()
        _by_site(left, sites, found)
        return figure


def parts_of(rate: float, found: Mapping[str, Any] | None) -> list[tuple[str, float, str]]:
    """(label, nats, colour) of pieces that add up to the rate; one alone where it is not taken apart.

    What the two bounds on the mutual information leave open is a piece of its own.
    """
    if found is None:
        return [("rate", rate, SOFT)]
    rate = found["rate"]  # of the same draws as its parts
    least, most = found["mutual_information"], found["mutual_information_upper"]
    split_up = found["dimension_kl"] is not None
    last = found["dimension_kl"] if split_up else 0.0
    most = min(max(least, most), rate - last)
    parts = [
        ("mutual information", least, BLUE),
        ("too few data to tell", max(0.0, most - least), FAINT),
        ("total correlation" if split_up else "marginal KL", rate - last - max(least, most), AMBER),
    ]
    return [*parts, ("dimension-wise KL", last, SKY)] if split_up else parts


def _by_site(axes: Axes, sites: Mapping[str, float], found: Mapping[str, Any]) -> None:
    used: dict[str, str] = {}
    for row, (name, rate) in enumerate(sites.items()):
        start = 0.0
        for label, width, color in parts_of(rate, found.get(name)):
            if width <= 0.004 * rate:  # nothing to see, or below zero by its error
                continue
            hatch = "////" if color == FAINT else None
            look: dict[str, Any] = {"color": color, "hatch": hatch, "ec": SOFT if hatch else "white"}
            axes.barh(row, width, left=start, height=0.5, lw=0 if hatch else 0.8, **look)
            used[label] = color
            start += width
        axes.annotate(
            f"{start:.2f}",
            (start, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8.5,
        )
    axes.set(yticks=range(len(sites)), yticklabels=list(sites), xlabel="nats per datum")
    axes.set_title(
        "Rate of each latent" if set(used) == {"rate"} else "Rate of each latent, and its parts", pad=24
    )
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    if set(used) == {"rate"}:
        return
    handles = [
        Patch(fc=color, label=label, hatch="////" if color == FAINT else None, ec=SOFT, lw=0)
        for label, color in used.items()
    ]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.015, 0.985), ncols=4, fontsize=8,
        handlelength=1, columnspacing=1.2, borderpad=0.2, handletextpad=0.5,
    )  # fmt: skip


def _by_dimension(axes: Axes, each: Mapping[str, list[float]]) -> None:
    largest = max(each, key=lambda name: len(each[name]))
    values = np.sort(np.array(each[largest]))[::-1]
    axes.bar(np.arange(1, len(values) + 1)[:_MOST], values[:_MOST], color=SKY, width=0.8)
    more = f" ({_MOST} of {len(values)})" if len(values) > _MOST else ""
    axes.set_title(f"KL(q({largest}_d), p({largest}_d)), sorted", pad=24)
    axes.set(xlabel=f"dimension{more}", ylabel="nats")
    axes.axhline(0, color=SOFT, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="x", visible=False)

"""What importance weights tell, for the report: the K curve, k-hat, the worst data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ppvae.reports.cells import cell, share, short
from ppvae.reports.numerals import measured, numeral
from ppvae.reports.page import Page

Drawn = Mapping[str, Figure]


def curve(told: Page, results: Mapping[str, Any], drawn: Drawn) -> None:
    rows, k, n = results["k_curve"], results["k"], results["n"]
    told.section(
        "The bound over K",
        "The importance-weighted bound rises with K and never above log p(x). Where it still climbs at the "
        "end, log p(x) is underestimated; once K is large enough, what is missing falls like 1/K.\n\n"
        f"All points come from the same {k} draws for each of {n} data: the one at K is the mean over "
        "disjoint blocks of K draws, which is unbiased for that bound.",
    )
    told.figure(
        drawn["k_curve"],
        "Left: the bound, with one standard error of its difference to the last point. Right: that "
        "difference, beside a line that falls as 1/K.",
    )
    cells = [
        [r["k"], cell(r, "bound"), measured(r["below_last"], r["below_last_stderr"]) if r["k"] < k else None]
        for r in rows
    ]
    told.table(
        ["K", "bound", "below the last"],
        cells,
        caption="In nats per datum. The ± of a bound holds how data differ; that of the difference does not.",
    )


def trust(told: Page, results: Mapping[str, Any], drawn: Drawn) -> None:
    n, split = results["n"], results["split"]
    told.section(
        "How far the weights can be trusted",
        "k-hat is the shape of the tail of a datum's importance weights. Below 0.5 their variance is "
        "finite; up to 0.7 the estimate is of use. Above, it rests on a few draws, errs low, and its error "
        "cannot be told: the guide misses a part of the posterior there. The effective sample size is how "
        "many draws of the posterior the weighted ones are worth.",
    )
    if results["k_hat"] is not None:
        told.note(_verdict(results))
    told.figure(drawn["k_hat"], "How many data have which k-hat, and which effective sample size.")
    if "worst" in drawn:
        told.figure(
            drawn["worst"],
            "The data that the guide serves worst, the very worst first, each above its reconstruction from "
            f"one draw of the guide. log p in nats; # is the place in the {split} data.",
        )
        return
    told.table(
        [f"place in {split}", "k-hat", "effective sample size", "log p(x)"],
        [_cells(row) for row in results["worst"]],
        caption=f"The worst of {n} data, the very worst first; log p(x) in nats.",
    )


def _cells(row: Mapping[str, Any]) -> list[Any]:
    size, log_p = row["effective_sample_size"], row["log_likelihood"]
    return [row["index"], short(row["k_hat"]), short(size), numeral(log_p, 5)]


def _verdict(results: Mapping[str, Any]) -> str:
    found, size = results["k_hat"], results["effective_sample_size"]
    parts = [
        f"{share(found['share_above'])} of {results['n']} data have a k-hat above {found['above']}; the "
        f"median effective sample size is {short(size['quantiles'].get('0.5'))} of {results['k']}."
    ]
    for count, what in (
        (found["exact"], "have weights without a tail: the guide is exact there, or the largest weights tie"),
        (found["dominated"], "are dominated by fewer than five draws"),
        (found["undefined"], "have weights that are not finite"),
    ):
        if count:
            parts.append(f"{count} data {what}.")
    return " ".join(parts)

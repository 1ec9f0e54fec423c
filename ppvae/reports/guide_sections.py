"""How good the guide is, for the report: rate and information, calibration, and its two gaps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ppvae.reports.cells import cell, p_value, short
from ppvae.reports.page import Page

Drawn = Mapping[str, Figure]


def information(told: Page, results: Mapping[str, Any], drawn: Drawn) -> None:
    told.section(
        "Rate and information",
        "The rate of a latent is what it says of its datum (mutual information), how its dimensions hang "
        "together (total correlation), and how far each lies from its prior (dimension-wise KL). The last "
        "two are the KL between the guide's aggregate over the data and the prior.\n\n"
        "An aggregate of n data bounds the information from both sides. Where the lower bound is near log "
        "n, n is too small to tell information from correlation; what lies between is hatched.",
    )
    told.figure(
        drawn["rates"],
        "Left: the rate of each latent, taken apart. Right: the dimension-wise KL, largest first.",
    )
    keys = ("rate", "mutual_information", "mutual_information_upper", "marginal_kl", "total_correlation")
    rows = []
    for name, parts in (results["information"] or {}).items():
        if parts is not None:
            rows.append([name, *(cell(parts, key) for key in (*keys, "dimension_kl"))])
        else:
            site = results["sites"].get(name, {})
            rate = cell(site, "rate") if site.get("rate") is not None else "–"
            rows.append([name, rate, results["reasons"].get(f"information/{name}", "")])
    if rows:
        n = results["n"]
        told.table(
            [
                "latent",
                "rate",
                "information ≥",
                "≤",
                "marginal KL ≤",
                "total correlation ≤",
                "dimension-wise KL",
            ],
            rows,
            caption=f"In nats per datum, from one draw for each of {n} data; log n is {math.log(n):.2f}.",
        )


def calibration(told: Page, results: Mapping[str, Any], drawn: Drawn) -> None:
    found = results["calibration"]
    told.section(
        "Calibration of the guide",
        f"{found['n']} latents are drawn from the prior, and a datum from each. If the guide is the "
        f"posterior, the rank of the true latent among {found['draws']} draws of the guide is uniform. "
        "Ranks piled up at both ends say that the guide is too narrow, in the middle too wide, at one end "
        "shifted. The rank of log p(x | z) finds a guide that is right in each dimension and wrong in all "
        "together.",
    )
    if found["passed"]:
        verdict = (
            "The ranks are uniform as far as can be told: on the model's own data the guide is calibrated."
        )
    else:
        verdict = (
            f"{found['failing']} of {found['ranked']} ranks are not uniform: on the model's own data the "
            "guide is not the posterior."
        )
    told.note(f"{verdict} The smallest p-value times {found['ranked']} is {p_value(found['p_value'])}.")
    told.figure(
        drawn["calibration"],
        "The ranks with the smallest p-values. The band holds 99 in 100 counts of uniform ranks.",
    )
    rows = []
    for row in found["worst"]:
        single = len(found["quantities"][row["quantity"]]["p_value"]) == 1
        name = row["quantity"] if single else f"{row['quantity']}[{row['dimension']}]"
        rows.append([name, p_value(row["p_value"]), short(row["shift"]), short(row["spread"])])
    told.table(
        ["rank of", "p-value", "shift", "spread"],
        rows,
        caption="Shift: the mean rank, as a share, less 1/2. Spread: the variance of ranks over that of "
        "uniform ones, less 1; above 0 the guide is too narrow, below too wide.",
    )


_SOURCES = {
    "evidence": "known exactly",
    "given": "as given",
    "importance_sampling": "importance sampling, a lower bound",
    "ais": "annealed importance sampling, a lower bound",
}


def gaps(told: Page, results: Mapping[str, Any], drawn: Drawn) -> None:
    found = results["gaps"]
    told.section(
        "The two gaps",
        "What the guide loses has two parts. The amortization gap is lost because one net serves all data: "
        "it is what a q of its own, fitted to a datum alone, gains. The approximation gap is lost because "
        "the family of q does not hold the posterior.",
    )
    for line in filter(None, (found["gap_note"], *found["gap_warnings"])):
        told.note(f"To be read with care: {line}.")
    told.figure(drawn["gaps"], f"From the elbo to log p(x), means over {found['n']} data.")
    told.table(
        ["", "nats per datum", "what it is"],
        [
            ["log p(x)", cell(found, "log_p"), _SOURCES.get(found["gap_log_p"], found["gap_log_p"])],
            ["approximation gap", cell(found, "approximation_gap"), "log p(x) less the best of the family"],
            [
                "best of the family",
                cell(found, "elbo_best"),
                f"{_FAMILIES[found['gap_family']]} for each datum",
            ],
            ["amortization gap", cell(found, "amortization_gap"), "the best of the family less the elbo"],
            ["elbo", cell(found, "elbo"), "of the guide, on the same data"],
        ],
    )


_FAMILIES = {"mean_field": "a diagonal Gaussian", "full": "a Gaussian of full covariance"}

"""What annealed chains tell, for the report: log p(x) from both sides, and the rate-distortion curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ppvae.reports.cells import cell, short
from ppvae.reports.page import Page

Drawn = Mapping[str, Figure]


def ais(told: Page, results: Mapping[str, Any], drawn: Drawn) -> None:
    found = results["ais"]
    whose = "data that the model drew"
    if found["bdmc_simulated"] is False:
        whose = "the same data, whose posterior is known"
    told.section(
        "Annealed chains, from both sides",
        f"Annealed importance sampling walks from the {found['start']} to the posterior by Hamiltonian "
        f"transitions: {found['temperatures']} temperatures, {found['chains']} chains for each of "
        f"{found['n']} data. It gives a lower bound. Walked backwards from a true draw of the posterior it "
        f"gives an upper bound, here for {whose}. Where the two are close, both are close to log p(x).",
    )
    told.figure(
        drawn["ais"],
        "Left: lower bounds on the same data. Right: how far both sides are apart, datum by datum.",
    )
    rows: list[list[Any]] = [
        ["annealed chains", cell(found, "ais_lower"), f"lower bound, {found['n']} data"],
        [
            f"importance sampling, K = {found['k']}",
            cell(found, "importance"),
            "lower bound, the same data",
        ],
        ["the first less the second", cell(found, "ais_above_importance"), "datum by datum"],
    ]
    if found["bdmc_missing"]:
        rows.append(["both sides", "–", found["bdmc_missing"]])
    else:
        sides = (("lower side", "bdmc_lower"), ("upper side", "bdmc_upper"), ("upper - lower", "bdmc_gap"))
        rows += [[label, cell(found, name), whose] for label, name in sides]
    caption = f"The transitions were accepted with probability {short(found['ais_acceptance'])}."
    told.table(["", "nats per datum", "of"], rows, caption=caption)


def rate_distortion(told: Page, results: Mapping[str, Any], drawn: Drawn) -> None:
    found = results["rate_distortion"]
    told.section(
        "Rate-distortion curve",
        "Each point is the best code at its β: it minimizes rate + β distortion under this model, with any "
        "guide at all. At β = 1 it is the posterior, and -(rate + distortion) is log p(x). The guide lies "
        "above the curve by what it loses.\n\n"
        f"Points are estimated from above, by annealing from the prior: {found['chains']} chains, "
        f"{found['temperatures']} temperatures, {found['n']} data.",
    )
    told.figure(drawn["rate_distortion"], "Best codes by β, and the guide.")
    told.table(
        ["β", "rate", "distortion", "log Z"],
        [
            [
                f"{b:g}" if (b := row["beta"]) >= 1 else f"1/{1 / b:g}",
                *(cell(row, key) for key in ("rate", "distortion", "log_z")),
            ]
            for row in found["curve"]
        ],
        caption="In nats per datum; log Z = -(rate + β distortion).",
    )

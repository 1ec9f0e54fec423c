"""The report of an evaluation: what evaluation.json says, told and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ppvae.plots import bounds, importance, ranks, rates
from ppvae.plots import gaps as gap_plots
from ppvae.reports import chain_sections, guide_sections, importance_sections
from ppvae.reports.cells import cell, data, share, short
from ppvae.reports.page import Page

_SECTIONS: dict[str, tuple[str, Callable[..., None]]] = {
    "k_curve": ("k_curve", importance_sections.curve),
    "worst": ("k_hat", importance_sections.trust),
    "information": ("rates", guide_sections.information),
    "calibration": ("calibration", guide_sections.calibration),
    "gaps": ("gaps", guide_sections.gaps),
    "ais": ("ais", chain_sections.ais),
    "rate_distortion": ("rate_distortion", chain_sections.rate_distortion),
}
"""By the entry of evaluation.json that each is about: its figure, and who tells it. In the page's order."""


def figures(results: Mapping[str, Any]) -> dict[str, Figure]:
    """By name, a figure of everything that was measured; the worst data can be drawn only where they are."""
    found: dict[str, Figure] = {}
    if results.get("k_curve"):
        found["k_curve"] = importance.k_curve(results)
        found["k_hat"] = importance.k_hat(results)
    if any(site.get("rate") is not None for site in results["sites"].values()):
        found["rates"] = rates.rates(results)
    if results.get("calibration"):
        found["calibration"] = ranks.ranks(results["calibration"])
    if results.get("gaps"):
        found["gaps"] = gap_plots.gaps(results["gaps"])
    if results.get("ais"):
        found["ais"] = bounds.sandwich(results["ais"])
    if results.get("rate_distortion"):
        found["rate_distortion"] = bounds.rate_distortion(results["rate_distortion"])
    return found


def page(
    results: Mapping[str, Any],
    drawn: Mapping[str, Figure],
    *,
    title: str,
    about: Mapping[str, Any],
    pictures: Mapping[str, Path] | None = None,
) -> Page:
    """The page, section by section; what was not measured has none.

    Args:
        results: of `evaluate`, or evaluation.json.
        drawn: of `figures`, and `worst` where the data can be shown.
        about: what was run and on what, words by name.
        pictures: PNG files by caption.
    """
    told = Page(title, _lead(results))
    _summary(told, results)
    for name, (figure, section) in _SECTIONS.items():
        if results.get(name) and figure in drawn:
            section(told, results, drawn)
    if pictures:
        told.section("Pictures")
        for caption, path in pictures.items():
            told.figure(path, caption)
    if results["reasons"]:
        told.section("What is undefined")
        told.table(["quantity", "why"], [[f"`{name}`", why] for name, why in results["reasons"].items()])
    told.section("What was run, and on what")
    told.table(["", ""], [[name, str(value)] for name, value in about.items() if value is not None])
    return told


_BOTH = "of both sides of log p(x), annealed chains"


def _lead(results: Mapping[str, Any]) -> str:
    step = f" The parameters are those of step {results['step']}." if "step" in results else ""
    count = results["n_elbo"]
    described = f"{results['split']} {'data' if count > 1 else 'datum'} of {results['data']}"
    spread = "± is one standard error of the mean over the data" if count > 1 else "one datum has no ±"
    return (
        f"How well the model describes {count} {described}, and how far its guide can be trusted.{step} "
        f"Numbers are in nats per datum unless they say otherwise; {spread}."
    )


def _summary(told: Page, results: Mapping[str, Any]) -> None:
    k, n = results["k"], results["n"]
    told.section("Summary")
    rows = [
        ("elbo", "elbo", f"lower bound on log p(x), one draw for each of {data(results['n_elbo'])}"),
        ("log p(x)", "log_likelihood", f"importance sampling, K = {k}, {data(n)}"),
        ("bits per dimension", "bits_per_dim", f"-log2 p(x) for each entry of x, K = {k}, {data(n)}"),
        ("rate", "rate", "KL(q(z | x), p(z)): what the latents cost"),
        ("distortion", "distortion", "-E log p(x | z): what is left to say of x"),
        ("active units", "active_units", "latent dimensions whose mean moves with the datum"),
    ]
    cells: list[list[Any]] = []
    for label, name, about in rows:
        missing = results[name] is None
        why = results["reasons"].get(name, "")
        cells.append([label, "–", why] if missing else [label, cell(results, name), about])
    if results.get("k_hat"):
        cells.append(["k-hat above 0.7", share(results["k_hat"]["share_above"]), f"of {data(n)}, K = {k}"])
    if results.get("effective_sample_size"):
        median = results["effective_sample_size"]["quantiles"].get("0.5")
        cells.append(["effective sample size", short(median), f"median of {data(n)}, of K = {k} draws"])
    if found := results.get("calibration"):
        verdict = "not seen to fail" if found["passed"] else "failed"
        cells.append(["calibration", verdict, f"{found['failing']} of {found['ranked']} ranks not uniform"])
    if found := results.get("gaps"):
        for name in ("approximation", "amortization"):
            cells.append([f"{name} gap", cell(found, f"{name}_gap"), data(found["n"])])
    if found := results.get("ais"):
        cells.append(["log p(x), annealed", cell(found, "ais_lower"), f"lower bound, {data(found['n'])}"])
        cells.append(["upper - lower", cell(found, "bdmc_gap"), found["bdmc_missing"] or _BOTH])
    told.table(["quantity", "value", "what it is"], cells)

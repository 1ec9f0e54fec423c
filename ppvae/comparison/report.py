"""A comparison as one page: what was compared, how, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ppvae.comparison.blocks import CLEAR, UPPER, Block, blocks, details
from ppvae.comparison.cells import METRICS
from ppvae.reports import Page, interval, measured, numeral, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ppvae.comparison.result import Comparison

Figures = Mapping[str, "Figure"]

BOUNDS = (
    "Bounds on the test data, higher is better. The elbo is over all test data with one draw each. log p(x) "
    "is estimated by importance sampling from the guide; it is a lower bound in itself, too low where "
    "the guide is far from the posterior."
)
DEFINITIONS = (
    "Bias: the distance of the mean gradient from that of the estimator's own target. The share of the noise "
    "is taken out, since a plain norm of a noisy mean is too large; ± is a standard error. z is taken from "
    "repeats that had no part in choosing the direction it is measured in.\n\n"
    "Variance: the trace of the gradient's covariance, summed over the parameters of the group. Variance x "
    "time: that times the median seconds of one gradient, without the optimizer's step: what it costs to "
    "average the noise away.\n\n"
    "SNR: the norm of the mean gradient over the root of the variance. DSNR: the length of a gradient along "
    "the mean over its length astray, on average (Rainforth et al. 2018); none below 3 parameters.\n\n"
    "Estimators with other targets climb other functions: each bias is against the estimator's own target."
)


def report(comparison: Comparison, figures: Figures) -> Page:
    """Everything that the terminal's table says, with the figures and how each number is defined."""
    what = f" on {comparison.data['name']}" if comparison.data else ""
    page = Page(f"Estimators compared: {comparison.pair}{what}", _lead(comparison))
    found = blocks(comparison)
    if comparison.cells:
        _trained(page, comparison, found.pop(0), figures)
    if comparison.laboratory is not None:
        _laboratory(page, comparison, found, figures)
    _settings(page, comparison)
    return page


def _lead(comparison: Comparison) -> str:
    names = ", ".join(f"`{name}`" for name in comparison.estimators)
    if not comparison.cells:
        return f"The gradients of {names}, at the same parameters and on the same batch."
    budget = comparison.config.get("budget_seconds")
    steps = max(cell.steps for cell in comparison.cells)
    said = f"{numeral(budget)} seconds of training" if budget else f"{steps} steps"
    count = len({cell.seed for cell in comparison.cells})
    return (
        f"{names}, each trained for {said} with {count} seed{'s' if count > 1 else ''}. With one seed all "
        "start from the same parameters and see the same data in the same order."
    )


def _table(page: Page, block: Block, caption: str = "") -> None:
    columns = [f"{name} ({unit})" if unit else name for name, unit in block.columns]
    page.table(columns, block.rows, caption=" ".join([caption, *block.notes]).strip())


# ---- after training


def _trained(page: Page, comparison: Comparison, block: Block, figures: Figures) -> None:
    config = comparison.config
    page.section("After training", BOUNDS)
    _table(page, block)
    if "curves" in figures:
        page.figure(
            figures["curves"],
            f"Test bounds on a fixed sample of {config.get('curve_n')} data; log p(x) with K = "
            f"{config.get('curve_k')}. Lines are means over seeds, bands the range of the seeds. The clock "
            "stands still while test data are looked at. The first points may lie below the panel.",
        )
    if "differences" in figures:
        page.figure(
            figures["differences"],
            f"Paired differences to `{comparison.baseline}`, seed by seed: {_marks(comparison)}",
        )
        _differences(page, comparison)
    _cells(page, comparison)


def _marks(comparison: Comparison) -> str:
    found = [comparison.difference(name, metric) for name in comparison.estimators[1:] for metric in METRICS]
    if any(difference is not None and difference.low is not None for difference in found):
        return (
            "blue marks are means with their 95 % intervals, filled where the interval leaves out 0; grey "
            "dots are single seeds."
        )
    return "one seed, which has no interval, so that no mark is filled."


def _differences(page: Page, comparison: Comparison) -> None:
    rows = []
    for name in comparison.estimators[1:]:
        for metric in METRICS:
            found = comparison.difference(name, metric)
            if found is not None:
                ends = (found.low, found.high, found.stderr)
                within = "–" if None in ends else interval(*ends, digits=3)  # type: ignore[arg-type]
                label = {"elbo": "test elbo", "log_likelihood": "log p(x)"}[metric]
                rows.append([name, label, signed(found.mean, found.stderr, digits=3), within, found.n])
    columns = ["estimator", "bound", "difference (nats per datum)", "95 % interval", "seeds"]
    page.table(columns, rows, caption=f"Minus `{comparison.baseline}`, seed by seed.")


def _cells(page: Page, comparison: Comparison) -> None:
    rows: list[list[Any]] = []
    for cell in [cell for name in comparison.estimators for cell in comparison.of(name)]:
        if cell.status == "done":
            bounds = [measured(cell.final.get(m), cell.final.get(f"{m}_stderr")) for m in METRICS]
            rows.append([cell.estimator, cell.seed, *bounds, cell.steps, numeral(cell.seconds)])
        else:
            rows.append([cell.estimator, cell.seed, f"{cell.status}: {cell.line}"])
    bounds = ["test elbo (nats per datum)", "log p(x) (nats per datum)"]
    page.table(
        ["estimator", "seed", *bounds, "steps", "training (s)"],
        rows,
        caption="The single trainings; ± is the standard error over test data.",
    )


# ---- gradients


def _laboratory(page: Page, comparison: Comparison, found: list[Block], figures: Figures) -> None:
    laboratory = comparison.laboratory
    assert laboratory is not None
    page.section(
        "Gradient laboratory",
        f"Each estimator's loss gradient, {laboratory.repeats} times on one batch of {laboratory.rows} "
        f"at one setting of the parameters, {laboratory.at}. All that varies are the estimator's own draws. "
        "The estimators take turns, so that a busy machine slows all alike.",
    )
    if "gradients" in figures:
        page.figure(
            figures["gradients"],
            "One row an estimator. Smaller bias and variance, larger SNR and DSNR are better. A hollow mark "
            f"is a bias that is not seen (z up to {CLEAR:g}): it stands at the estimate plus {UPPER:g} "
            "standard errors. 0 and ∞ stand at the edges.",
        )
    for block in found:
        _table(
            page,
            block,
            caption=f"{_capital(block.title)}. A z above {CLEAR:g} (!) is a bias that is seen.",
        )
    page.note(DEFINITIONS)
    for group in laboratory.parameters:
        block = details(laboratory, group)
        if block.rows:
            _table(page, block, caption=f"{_capital(block.title)}.")
    _bounds(page, comparison)


def _bounds(page: Page, comparison: Comparison) -> None:
    laboratory = comparison.laboratory
    assert laboratory is not None
    rows = [
        [p.estimator, measured(p.bound.value, p.bound.stderr)]
        for p in laboratory.probes
        if p.bound is not None
    ]
    known = (("the elbo, exactly", laboratory.exact_elbo), ("log p(x), exactly", laboratory.evidence))
    rows += [[label, numeral(value, 6)] for label, value in known if value is not None]
    if rows:
        columns = ["estimator", "reported bound (nats per datum)"]
        page.table(columns, rows, caption="The bounds on this batch, mean over the repeats ± standard error.")


# ---- how


def _settings(page: Page, comparison: Comparison) -> None:
    page.section("How it was done")
    config, training, data = comparison.config, comparison.training, comparison.data
    there = comparison.environment
    rows = [["pair", comparison.pair]]
    if data:
        sizes = ", ".join(f"{n} {name}" for name, n in data["sizes"].items())
        rows.append(["data", f"{data['name']}: {sizes}; binarization {data['binarization']}"])
        rows.append(["hash of the data", f"`{data['hash']}`"])
    rows.append(["batch", f"{training.get('batch')} data"])
    rows.append(["optimizer", f"{training.get('optimizer')}, learning rate {training.get('lr')}"])
    rows.append(["sizes", _listed(config.get("sizes")) or "the pair's own"])
    rows.append(["further options", _listed(config.get("train")) or "none"])
    rows.append(["seeds", f"{config.get('seeds')} from {config.get('seed')}"])
    device = there.get("device")
    on = f"{there.get('cpu')}, {there.get('threads')} threads"
    rows.append(["device", on if device == "cpu" else f"{device}; {on}"])
    rows.append(["versions", _listed(there.get("versions"), " ")])
    if there.get("commit"):
        rows.append(["commit", f"`{there['commit']}`"])
    page.table(["what", "how"], rows)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(values: Any, sign: str = "=") -> str:
    return ", ".join(f"{name}{sign}{value}" for name, value in (values or {}).items())

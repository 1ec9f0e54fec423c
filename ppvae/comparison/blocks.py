"""The numbers of a comparison as blocks of text: what the terminal and the report page both show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ppvae.comparison.findings import GroupFinding, Laboratory, Probe
from ppvae.comparison.moments import Estimate
from ppvae.reports import interval, measured, numeral, signed

if TYPE_CHECKING:
    from ppvae.comparison.result import Comparison

CLEAR = 3.0
"""Standard errors from which a bias is called seen."""
UPPER = 2.0
"""Standard errors above the estimate at which figures mark a bias that is not seen."""


@dataclass(frozen=True)
class Block:
    """A table: one row an estimator, or fewer cells where a line tells why there are no numbers."""

    title: str
    columns: tuple[tuple[str, str], ...]
    """(name, unit) of each; the unit may be empty."""
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    spare: tuple[str, ...] = ()
    """Columns that a narrow terminal leaves out, the first one first."""


def blocks(comparison: Comparison) -> list[Block]:
    """After training, and for each group of parameters its gradient."""
    found = [_trained(comparison)] if comparison.cells else []
    laboratory = comparison.laboratory
    if laboratory is not None:
        groups = dict.fromkeys(group for p in laboratory.probes for group in p.groups)
        found += [_gradient(laboratory, group) for group in groups]
        if not groups:
            found.append(Block("gradients", _COLUMNS, [_row(p, "") for p in laboratory.probes], spare=_SPARE))
    return found


def _trained(comparison: Comparison) -> Block:
    several = len(comparison.estimators) > 1
    columns = [
        ("estimator", ""),
        ("test elbo", "nats per datum"),
        (_log_p(comparison), "nats per datum"),
    ]
    if several:
        columns.append((f"log p(x) minus that of {comparison.baseline}", "95 % interval"))
    columns += [("step", "ms"), ("steps", "")]
    refusals, rows = comparison.refusals(), []
    for name in comparison.estimators:
        summary = comparison.summary(name)
        if not summary["done"]:
            rows.append([name, refusals.get(name, "no cell is done")])
            continue
        row = [name]
        row += [measured(summary[m]["mean"], summary[m]["stderr"]) for m in ("elbo", "log_likelihood")]
        if several:
            row.append(_difference(comparison, name))
        seconds = summary["seconds_per_step"]["mean"]
        row += [numeral(None if seconds is None else 1e3 * seconds, 3), _whole(summary["steps"])]
        rows.append(row)
    title, notes = f"after training, {_seeds(comparison)}", _training_notes(comparison)
    return Block(title, tuple(columns), rows, notes, ("steps", "step"))


def _whole(value: float | None) -> str:
    """Of steps: their mean over seeds where they differ."""
    return "–" if value is None else f"{value:.0f}"


def _seeds(comparison: Comparison) -> str:
    count = len({cell.seed for cell in comparison.cells})
    return f"{count} seed{'s' if count > 1 else ''}"


def _log_p(comparison: Comparison) -> str:
    k = next((cell.final["k"] for cell in comparison.cells if cell.final.get("k")), None)
    return "log p(x)" if k is None else f"log p(x), K = {k}"


def _difference(comparison: Comparison, name: str) -> str:
    if name == comparison.baseline:
        return "–"
    difference = comparison.difference(name)
    if difference is None:
        return "–"
    mean = signed(difference.mean, difference.stderr)
    if difference.low is None or difference.high is None or difference.stderr is None:
        return mean
    return f"{mean} {interval(difference.low, difference.high, difference.stderr)}"


def _training_notes(comparison: Comparison) -> list[str]:
    found = []
    if not any(cell.status == "done" for cell in comparison.cells):
        return found
    if len({cell.seed for cell in comparison.cells}) > 1:
        found.append("± is the standard error over seeds; the interval is Student's t over paired seeds.")
    else:
        found.append("One seed: ± is the standard error over test data, and differences have no interval.")
    final = next((cell.final for cell in comparison.cells if cell.final.get("n")), None)
    if final is not None:
        found.append(f"log p(x) is on {final['n']} test data, the elbo on {final['n_elbo']}.")
    for name in comparison.estimators:
        summary = comparison.summary(name)
        if 0 < summary["done"] < summary["cells"]:
            line = comparison.refusals()[name]
            found.append(f"{name}: {summary['done']} of {summary['cells']} seeds came to an end; {line}")
    return found


_COLUMNS = (
    ("estimator", ""),
    ("bias", ""),
    ("z", ""),
    ("variance", ""),
    ("SNR", ""),
    ("DSNR", ""),
    ("time", "ms"),
    ("var. x time", "s"),
)
_SPARE = ("var. x time",)


def _gradient(laboratory: Laboratory, group: str) -> Block:
    rows = [_row(p, group) for p in laboratory.probes]
    count = laboratory.parameters[group]
    title = f"gradient of the {group}, {count} parameter{'s' if count > 1 else ''}"
    return Block(title, _COLUMNS, rows, _gradient_notes(laboratory, group), _SPARE)


def _row(probe: Probe, group: str) -> list[str]:
    if probe.line is not None:
        return [probe.estimator, probe.line]
    if group not in probe.groups:
        return [probe.estimator, "no gradient"]
    found = probe.groups[group].shown()
    return [
        probe.estimator,
        _bias(found),
        "–" if found.z is None else f"{found.z:.1f}{' !' if found.z > CLEAR else ''}",
        numeral(found.variance.value, 3),
        numeral(found.snr, 3),
        numeral(None if found.dsnr is None else found.dsnr.value, 3),
        numeral(None if probe.seconds is None else 1e3 * probe.seconds, 3),
        numeral(found.variance_time, 3),
    ]


def details(laboratory: Laboratory, group: str) -> Block:
    """What there is no room for in a terminal: norms, and standard errors."""
    columns = (
        ("estimator", ""),
        ("gradient", "norm of the mean"),
        ("truth - mean, squared", ""),
        ("variance", "± standard error"),
        ("SNR", "mean over parameters"),
        ("DSNR", "± standard error"),
        ("time", "ms, quartiles"),
    )
    rows = []
    for probe in laboratory.probes:
        if group not in probe.groups:
            continue
        found = probe.groups[group].shown()
        low, high = (1e3 * seconds for seconds in probe.seconds_quartiles or (0.0, 0.0))
        rows.append(
            [
                probe.estimator,
                measured(found.norm.value, found.norm.stderr),
                "–" if found.bias_squared is None else measured(*_both(found.bias_squared)),
                measured(*_both(found.variance)),
                numeral(found.snr_per_parameter, 3),
                "–" if found.dsnr is None else measured(*_both(found.dsnr)),
                f"{numeral(low, 3)} to {numeral(high, 3)}",
            ]
        )
    return Block(f"gradient of the {group}, more precisely", columns, rows)


def _both(estimate: Estimate) -> tuple[float, float | None]:
    return estimate.value, estimate.stderr


def _bias(found: GroupFinding) -> str:
    return "–" if found.bias is None else measured(found.bias.value, found.bias.stderr)


def _gradient_notes(laboratory: Laboratory, group: str) -> list[str]:
    found = {p.estimator: p.groups[group] for p in laboratory.probes if group in p.groups}
    held: dict[tuple[str, str], list[str]] = {}
    for name, finding in found.items():
        if finding.reference is not None and finding.target is not None:
            held.setdefault((finding.target, finding.reference), []).append(name)
    notes = [
        f"Bias of {_list(names)}: from the gradient of the {target}, {how}."
        for (target, how), names in held.items()
    ]
    without: dict[str, list[str]] = {}
    for name, finding in found.items():
        if finding.reference is None:
            without.setdefault(finding.without or "no target to hold it against", []).append(name)
    return notes + [f"No bias is told of {_list(names)}: {why}." for why, names in without.items()]


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)

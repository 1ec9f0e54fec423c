"""Make docs/findings.md from the records that `findings.py` and `variances.py` wrote.

python benchmarks/findings_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ppvae.comparison.differences import mean_and_stderr

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "findings"
HEAD = """# Findings

Orderings of trained models are no laws: they depend on data, nets and schedules. Each table below is one
schedule of [`benchmarks/findings/`](../benchmarks/findings), written down before it ran and run over 3 seeds
by `benchmarks/findings.py` or `benchmarks/variances.py`, whose records lie in
[`benchmarks/results/findings/`](../benchmarks/results/findings). The same seed means the same initial
parameters and the same data in the same order, so that differences are paired; their intervals are those of
Student's t at 95 % over the seeds, wide for so few, and every difference that a schedule names is shown,
whichever way it came out. Published numbers stand beside ours with their protocol, from which ours differs as
the schedule says: orders can be compared, levels cannot. `benchmarks/findings_page.py` made this page.
"""
MEASURES = {"log_likelihood": "test log p(x)", "elbo": "test elbo"}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(found: dict[str, Any], digits: int = 2) -> str:
    return f"[{found['low']:+.{digits}f}, {found['high']:+.{digits}f}]"


def trained(name: str, record: dict[str, Any]) -> str:
    """A finding about trained models: every cell over its seeds, then the differences."""
    schedule = record["schedule"]
    measure = schedule.get("measure", "log_likelihood")
    other = next(key for key in MEASURES if key != measure)
    published = {(p.get("pair", schedule["pair"]), p["cell"]): p for p in schedule.get("published", [])}
    rows, seen = [], []
    for cell in record["cells"]:
        key = (cell["pair"], cell["cell"])
        if key in seen:
            continue
        seen.append(key)
        same = [c for c in record["cells"] if (c["pair"], c["cell"]) == key]
        row = [f"`{cell['pair']}`", f"`{cell['cell']}`"]
        for of in (measure, other):
            mean, stderr, n = mean_and_stderr({c["seed"]: c[of] for c in same})
            row.append(f"{mean:.2f} ± {stderr:.2f} ({n})" if stderr is not None else f"{mean:.2f} (1)")
        row.append(f"{sum(c['train_seconds'] for c in same) / len(same):.0f}")
        found = published.get(key)
        row.append(f"{-abs(found['value']):.2f}" if found else "")  # some print it without its sign
        rows.append(row)
    head = ["pair", "estimator", *(f"{MEASURES[m]}, nats" for m in (measure, other)), "seconds", "published"]
    differences = [
        [f"`{d['pair']}`", f"`{d['second']}` less `{d['first']}`", f"{d['mean']:+.2f}", interval(d)]
        for d in record["differences"]
    ]
    data = f"{schedule['train_n']:,} images of {schedule['data']}, {schedule['binarization']} binarization"
    options = ", ".join(f"{key} {value}" for key, value in schedule["options"].items())
    sizes = ", ".join(f"{key} {value}" for key, value in schedule["sizes"].items()) or "the defaults"
    protocols = dict.fromkeys(
        p["protocol"] for p in schedule.get("published", []) if p["protocol"] != "the same"
    )
    return "\n\n".join(
        [
            f"## {schedule['question']}",
            f"{data}; {options}; sizes: {sizes}. Evaluated on {schedule['evaluate']['n']} shuffled test data "
            f"with K = {schedule['evaluate']['k']}. ± is the standard error over seeds (how many). "
            "Seconds are of one thread, on a machine that was not idle. "
            f"[The schedule](../benchmarks/findings/{name}.yaml).",
            table(head, rows),
            f"Paired differences of the {MEASURES[measure]}, in nats:",
            table(["pair", "difference", "mean", "95 % interval"], differences),
            *([f"Published: {'; '.join(protocols)}."] if protocols else []),
        ]
    )


def variances(name: str, record: dict[str, Any]) -> str:
    """A finding about gradients: ratios of variances at trained parameters."""
    schedule = record["schedule"]
    by_key: dict[tuple, dict[str, Any]] = {}
    for ratio in record["ratios"]:
        key = (ratio["pair"], ratio["steps"], ratio["cell"])
        by_key.setdefault(key, {})[ratio["measure"]] = ratio
    rows = [
        [
            f"`{pair}`",
            str(steps),
            f"`{cell}`",
            *(
                f"{found[m]['ratio']:.3g} [{found[m]['low']:.3g}, {found[m]['high']:.3g}]"
                for m in ("variance", "variance_time")
            ),
        ]
        for (pair, steps, cell), found in by_key.items()
    ]
    against = f"`{schedule['against']}`"
    return "\n\n".join(
        [
            f"## {schedule['question']}",
            f"{schedule['train_n']:,} images of {schedule['data']}, {schedule['binarization']} binarization. "
            f"`{schedule['train']['estimator']}` trained, so that none of those compared chose the "
            f"parameters; baselines and control variates learned for {schedule['settle']} steps on other "
            f"batches; {schedule['repeats']} gradients of each. The trace of the covariance of the "
            f"{schedule['group']}'s gradient, over that of {against}: geometric means over seeds. "
            f"[The schedule](../benchmarks/findings/{name}.yaml).",
            table(
                ["pair", "after steps", "estimator", f"variance over {against}'s", "variance x time over it"],
                rows,
            ),
        ]
    )


def main() -> None:
    sections = []
    for path in sorted(RECORDS.glob("*.json")):
        record = json.loads(path.read_text())
        made = variances if "ratios" in record else trained
        sections.append(made(path.stem, record))
    page = ROOT / "docs" / "findings.md"
    page.write_text(HEAD + "\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    print(f"written: {page}")


if __name__ == "__main__":
    main()

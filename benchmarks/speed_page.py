"""Fill docs/speed.md with what `step_time.py`, `time_to_quality.py` and `ablations.py` found: their numbers
stand between marks.

python benchmarks/speed_page.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
CASES = {
    "mlp": "MLP 784-400-20, ELBO",
    "iwae_5": "the same, IWAE, K = 5",
    "dreg_5": "the same, DReG, K = 5",
    "iwae_50": "the same, IWAE, K = 50",
    "vae": "`vae` as it comes",
    "conv_vae": "`conv_vae`",
    "recurrent": "a GRU of 14 steps",
}
WHO = {
    "ours eager": "ours, eager",
    "ours graph": "ours, graph",
    "ours cudagraph": "ours, cudagraph",
    "ours graph bf16": "ours, graph, bf16 nets",
    "hand eager": "torch by hand, eager",
    "hand compiled": "torch by hand, compiled",
    "hand traced": "by hand, traced as ours",
    "Pyro SVI": "Pyro `SVI.step`",
    "Pyro unvalidated": "Pyro, unvalidated",
    "NumPyro": "NumPyro, jitted scan",
}
LEFT_OUT = {
    "faster_products": "float32 products by oneDNN where it is faster than MKL (`products.py`)",
    "cheaper_bernoulli": "log(1 + e) of a Bernoulli as a series, one exponential (`rewriting.py`)",
    "gathered_once": "the batch gathered apart from what reads it (`rewriting.py`)",
    "faster_convolutions": "a transposed convolution to one channel as a product (`convolutions.py`)",
    "unflattened_sums": "an event's log-probabilities summed over its dimensions (`rewriting.py`)",
}
Record = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def interval(found: dict[str, float]) -> str:
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def where(record: Record) -> str:
    versions = record["versions"] | {k: v for k, v in record["packages"].items() if v}
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "pyro-ppl", "numpyro", "jax") if name in versions
    )
    timed = "one core" if record["timed_on"] == "cpu" else record["device"]
    return (
        f"{timed} of {record['cpu']}, {shown}, batches of {record['batch']}, "
        f"{record['rounds']} rounds in {record.get('processes', 1)} processes, load before the start "
        f"{record['load_before']:.1f}."
    )


def steps(record: Record) -> str:
    """Time over that of ours, graph, in every case; milliseconds of ours, graph."""
    cases = {name: record["cases"][name] for name in CASES if name in record["cases"]}
    rows = []
    for who, shown in WHO.items():
        if any(who in case["milliseconds"] for case in cases.values()):
            to = [case["to_ours_graph"].get(who) for case in cases.values()]
            rows.append([shown, *("" if found is None else interval(found) for found in to)])
    medians = [f"{case['median']['ours graph']:.2f}" for case in cases.values()]
    rows.append(["ours, graph, ms", *medians])
    head = ["time over that of ours, graph", *(CASES[name] for name in cases)]
    return f"{where(record)}\n\n{table(head, rows)}"


def limits(record: Record) -> str:
    """What was asked for before it was measured."""
    rows = [
        [
            CASES[line["case"]],
            f"{WHO[line['first']]} / {WHO[line['second']]}",
            interval(line) if "ratio" in line else "not timed",
            ", ".join(f"{ratio:.3f}" for ratio in line.get("each", ())),
            f"{line['limit']}",
            "yes" if line["holds"] else "**no**",
        ]
        for line in record["must_hold"]
    ]
    return table(["case", "time over time", "found", "in each process", "at most", "holds"], rows)


def quality(record: Record) -> str:
    """Seconds until each level is reached, and how many more than those that all are held against."""
    schedule, rows = record["schedule"], []
    for who in schedule["contestants"]:
        row = [WHO.get(who, who.replace("ours ", "ours, "))]
        for level in schedule["levels"]:
            (line,) = (x for x in record["summary"] if (x["level"], x["contestant"]) == (level, who))
            values, more = list(line["seconds"].values()), ""
            if line.get("low") is not None:
                more = f"; {line['more']:+.1f} [{line['low']:+.1f}, {line['high']:+.1f}]"
            row.append(f"{sum(values) / len(values):.1f}{more}" if values else "not reached")
        rows.append(row)
    head = ["seconds to a test elbo of", *(f"{level:.0f} nats" for level in schedule["levels"])]
    seeds, last = len(schedule["seeds"]), record["first"]["checks"][-1]
    against = WHO.get(schedule["against"], schedule["against"].replace("ours ", "ours, "))
    said = [
        f"`{schedule['pair']}` on {schedule['data']}, batches of {schedule['batch']}, Adam at",
        f"{schedule['lr']}; the elbo of {schedule['test_n']:,} test data, looked at every",
        f"{schedule['check_every']} steps. Means over {seeds} seeds; after the semicolon, how many seconds",
        f"more than *{against}*, paired over seeds, with Student's interval of 95 %.",
        f"\n\n{table(head, rows)}\n\nThese are second runs, which find what was compiled before. The very",
        f"first of *ours, graph* took {last['seconds']:.1f} s to {last['elbo']:.1f} nats.",
    ]
    return " ".join(said)


def parts(record: Record) -> str:
    """The time of a step as it is over that without each thing."""
    rows = [
        [CASES[name], LEFT_OUT[left_out], interval(to)]
        for name, case in record["cases"].items()
        for left_out, to in case["ratios"].items()
    ]
    return table(["case", "what", "time over that without it"], rows)


def filled(page: str, name: str, text: str) -> str:
    """The page with this text between the marks of this name."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert marks.search(page), f"docs/speed.md has no marks {name!r}"
    return marks.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    record: Record = json.loads((RESULTS / "step_time.json").read_text(encoding="utf-8"))
    page = filled(page, "steps", steps(record))
    page = filled(page, "limits", limits(record))
    slow: Record = json.loads((RESULTS / "time_to_quality.json").read_text(encoding="utf-8"))
    page = filled(page, "quality", quality(slow))
    ablations: Record = json.loads((RESULTS / "ablations.json").read_text(encoding="utf-8"))
    page = filled(page, "parts", parts(ablations))
    PAGE.write_text(page, encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

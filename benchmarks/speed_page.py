"""Fill docs/speed.md with what `step_time.py` found: each number stands between two marks.

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
    "recurrent": "a GRU of 16 steps",
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
        f"{timed} of {record['cpu']}, {shown}, batches of {record['batch']}, {record['rounds']} rounds, "
        f"load before the start {record['load_before']:.1f}."
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
            f"{line['limit']}",
            "yes" if line["holds"] else "**no**",
        ]
        for line in record["must_hold"]
    ]
    return table(["case", "time over time", "found", "at most", "holds"], rows)


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
    PAGE.write_text(page, encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

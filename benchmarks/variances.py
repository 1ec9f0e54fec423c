"""Run a finding about gradients: their variance under several estimators, at trained parameters.

    python benchmarks/variances.py benchmarks/findings/variance.yaml \
        --out benchmarks/results/findings/variance.json

For each seed and pair one training leads to the points of the schedule; at each, all estimators are probed in
the gradient laboratory (`ppvae.comparison.probe`) at the same parameters, on one batch. Reported are ratios
to the estimator named by `against`, of tr Cov and of tr Cov times seconds, as geometric means over seeds with
a 95 % interval of Student's t on their logarithms. The schedule is written down first; every ratio is
reported, whichever way it comes out.
"""

from __future__ import annotations

import math
from typing import Any

from records import asked, keep

from ppvae.comparison import paired_difference, probe
from ppvae.comparison.grid import batches
from ppvae.estimators import find as find_estimator
from ppvae.training import fit

MEASURES = ("variance", "variance_time")


def probed(schedule: dict[str, Any], pair: str, seed: int, point: int) -> list[dict[str, Any]]:
    """All estimators of one pair, at the parameters that `point` steps of training lead to."""
    names = schedule["pairs"][pair]
    trained = fit(
        pair,
        seed=seed,
        steps=point,
        threads=1,
        progress=False,
        **{key: schedule[key] for key in ("data", "binarization", "train_n")},
        **schedule["train"],
    )
    assert trained.dataset is not None
    batch = batches(trained.dataset.train, schedule["train"]["batch"])
    found = probe(
        trained.built,
        batch(0),
        {name: find_estimator(name) for name in names},
        repeats=schedule["repeats"],
        seed=seed,
        step=point,
        settle=schedule["settle"],
        settle_on=lambda i: batch(i + 1),
    )
    cells = []
    for one in found.probes:
        assert one.line is None, one.line
        group = one.groups[schedule["group"]]
        cells.append(
            {
                "pair": pair, "cell": one.estimator, "seed": seed, "steps": point,
                "variance": group.variance.value, "variance_stderr": group.variance.stderr,
                "variance_time": group.variance_time, "norm": group.norm.value, "z": group.z,
                "reference": group.reference, "seconds": one.seconds, "settled": one.settled,
            }
        )  # fmt: skip
    return cells


def ratios(schedule: dict[str, Any], cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each estimator to the one they are held against, by pair, point and measure."""
    found, against = [], schedule["against"]
    for pair, names in schedule["pairs"].items():
        for point in schedule["points"]:
            here = [c for c in cells if c["pair"] == pair and c["steps"] == point]
            for name in names:
                for measure in MEASURES if name != against else ():
                    logs = {
                        of: {c["seed"]: math.log(c[measure]) for c in here if c["cell"] == of}
                        for of in (name, against)
                    }
                    paired = paired_difference(logs[name], logs[against])
                    if paired is None or paired.low is None or paired.high is None:
                        continue
                    found.append(
                        {
                            "pair": pair, "steps": point, "cell": name, "against": against,
                            "measure": measure, "seeds": paired.n, "ratio": math.exp(paired.mean),
                            "low": math.exp(paired.low), "high": math.exp(paired.high),
                        }
                    )  # fmt: skip
    return found


def main() -> None:
    schedule, record, out = asked((__doc__ or "").splitlines()[0])
    for seed in schedule["seeds"]:
        for pair in schedule["pairs"]:
            for point in schedule["points"]:
                if any((c["pair"], c["seed"], c["steps"]) == (pair, seed, point) for c in record["cells"]):
                    continue
                cells = probed(schedule, pair, seed, point)
                record["cells"] += cells
                record["ratios"] = ratios(schedule, record["cells"])
                keep(record, out)
                for c in cells:
                    print(f"{pair} {point} steps {c['cell']} seed {seed}: {c['variance']:.3e}", flush=True)
    for r in record["ratios"]:
        interval = f"{r['ratio']:.3g} [{r['low']:.3g}, {r['high']:.3g}]"
        print(f"{r['pair']} after {r['steps']}: {r['measure']} of {r['cell']} / {r['against']} = {interval}")


if __name__ == "__main__":
    main()

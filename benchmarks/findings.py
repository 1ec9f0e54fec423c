"""Run a finding: train each cell of a committed schedule over its seeds, and report paired differences.

    python benchmarks/findings.py benchmarks/findings/iwae.yaml --out benchmarks/results/findings/iwae.json

A finding is an ordering of trained models. It is no law, so it is no test: its schedule is written down
first, each difference is paired over seeds and given with a 95 % interval of Student's t, and it is
reported whichever way it comes out. Each finished cell is written at once; a run that was stopped goes on
with the cells that are missing, and refuses a schedule that has changed meanwhile.
"""

from __future__ import annotations

import time
from typing import Any

from records import asked, keep

from ppvae.comparison.differences import paired_difference
from ppvae.evaluation import evaluate
from ppvae.training import fit

KEPT = (
    "log_likelihood", "log_likelihood_stderr", "elbo", "elbo_stderr", "rate", "distortion", "active_units",
    "k", "n", "n_elbo", "data_hash",
)  # fmt: skip


def cell(schedule: dict[str, Any], pair: str, estimator: str, seed: int) -> dict[str, Any]:
    """Train one cell and evaluate it; all cells of a seed start alike and see the data in one order."""
    started = time.monotonic()
    trained = fit(
        pair,
        estimator=estimator,
        seed=seed,
        data=schedule["data"],
        binarization=schedule.get("binarization"),
        train_n=schedule.get("train_n"),
        sizes=schedule["sizes"].get(pair, schedule["sizes"]),
        threads=1,
        progress=False,
        **schedule["options"],
    )
    seconds = time.monotonic() - started
    assert trained.dataset is not None
    results = evaluate(trained.built, trained.dataset, **schedule["evaluate"])
    return {
        "pair": pair,
        "cell": estimator,
        "seed": seed,
        "steps": trained.step,
        "train_seconds": seconds,
        **{key: results[key] for key in KEPT if key in results},
    }


def difference(found: list[dict], pair: str, first: str, second: str, key: str) -> dict[str, Any] | None:
    """Mean over seeds of second - first, with its 95 % interval; None until two seeds have both."""
    by_seed = {(c["cell"], c["seed"]): c[key] for c in found if c["pair"] == pair}
    seeds = sorted(s for name, s in by_seed if name == first and (second, s) in by_seed)
    values, baseline = ({s: by_seed[name, s] for s in seeds} for name in (second, first))
    paired = paired_difference(values, baseline)
    if paired is None or paired.n < 2:
        return None
    return {
        "pair": pair, "first": first, "second": second, "measure": key, "seeds": seeds,
        "deltas": [values[s] - baseline[s] for s in seeds],
        "mean": paired.mean, "low": paired.low, "high": paired.high,
    }  # fmt: skip


def main() -> None:
    schedule, results, out = asked((__doc__ or "").splitlines()[0])
    measure = schedule.get("measure", "log_likelihood")
    pairs = schedule["pair"] if isinstance(schedule["pair"], list) else [schedule["pair"]]
    for seed in schedule["seeds"]:
        for pair in pairs:
            for name in schedule.get("cells_of", {}).get(pair, schedule["cells"]):
                done = {(c["pair"], c["cell"], c["seed"]) for c in results["cells"]}
                if (pair, name, seed) in done:
                    continue
                found = cell(schedule, pair, name, seed)
                results["cells"].append(found)
                differences = [
                    difference(results["cells"], of, first, second, measure)
                    for of in pairs
                    for first, second in schedule["differences"]
                ]
                results["differences"] = [d for d in differences if d is not None]
                keep(results, out)
                print(f"{pair} {name} seed {seed}: {measure} {found[measure]:.3f}", flush=True)
    for d in results["differences"]:
        interval = f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"
        print(f"{d['pair']}: {d['second']} - {d['first']} = {interval}")


if __name__ == "__main__":
    main()

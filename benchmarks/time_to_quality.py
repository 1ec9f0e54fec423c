"""Seconds of training until a VAE of the packaged digits has reached a stated test elbo.

    python benchmarks/time_to_quality.py --out benchmarks/results/time_to_quality.json

`SCHEDULE` says it all beforehand: pair, data, steps, levels, seeds, and who runs. Each run is a process of
its own on one core. Its clock runs while it trains, compiling included, and stands still while it imports,
loads the data and is evaluated. Ours, eager, compiled and left to choose, and torch by hand draw the same
numbers, so that they differ in seconds and not in steps; Pyro draws the same, and sums where ours takes
means. What is compiled is kept on disk: what is reported are second runs, and `first` is one of the graph
before them all, which found nothing there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from contestants import Case, Contestant, Field, parts, pyro_elbo
from step_time import on_one_core
from twins import Twin, elbo, give_back, mlp_twin

from ppvae.built import Built
from ppvae.comparison.differences import paired_difference
from ppvae.data import load
from ppvae.environment import environment
from ppvae.evaluation import mean_terms
from ppvae.registry import find

SCHEDULE: dict[str, Any] = {
    "pair": "vae",
    "data": "digits",
    "batch": 128,
    "lr": 1e-3,
    "steps": 3000,
    "check_every": 100,
    "test_n": 2000,
    "levels": [-115.0, -108.0, -105.0],
    "seeds": [0, 1, 2],
    "contestants": ["ours eager", "ours graph", "ours auto", "hand eager", "Pyro SVI"],
    "against": "ours auto",
    "warmed_by": "ours graph",
}


def train(who: str, seed: int, schedule: dict[str, Any]) -> dict[str, Any]:
    """One run: the test elbo at each check, with the step and the seconds of training before it."""
    dataset = load(schedule["data"])
    case = Case(
        find(schedule["pair"]), "elbo", lambda: mlp_twin((400, 400), 20), elbo, 1, pyro_loss=pyro_elbo
    )
    field = Field(case, dataset, torch.device("cpu"), seed)
    contestant = _contestant(field, who, schedule["steps"])
    test = dataset.fixed("test").shuffled(0).subset(torch.arange(schedule["test_n"]))
    torch.manual_seed(seed)
    checks, seconds = [], 0.0
    for done, rows in enumerate(order(len(field.train), schedule, seed), 1):
        started = time.perf_counter()
        contestant.take(rows)
        seconds += time.perf_counter() - started
        if done % schedule["check_every"] == 0:
            found = mean_terms(_pair(field, contestant), test, seed=0)["elbo"]
            checks.append({"step": done, "seconds": seconds, "elbo": found})
            if found >= max(schedule["levels"]):
                break
    return {
        "contestant": who, "seed": seed, "account": getattr(contestant.step, "account", None),
        "checks": checks,
    }  # fmt: skip


def _contestant(field: Field, who: str, steps: int) -> Contestant:
    if who == "hand eager":
        return field.by_hand(compile=False)
    if who == "Pyro SVI":
        return field.by_pyro()
    found = field.ours(who.removeprefix("ours "))
    found.step.left = steps
    return found


def _pair(field: Field, contestant: Contestant) -> Built:
    """The pair with the parameters as they stand."""
    if not isinstance(contestant.trained, Twin):
        return contestant.trained
    built = field.built()
    give_back(contestant.trained, *parts(built))
    return built


def order(rows: int, schedule: dict[str, Any], seed: int) -> Iterator[torch.Tensor]:
    """The indices of each batch of the whole training."""
    done, epoch, batch = 0, 0, schedule["batch"]
    while done < schedule["steps"]:
        mixed = torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for i in range(min(rows // batch, schedule["steps"] - done)):
            yield mixed[i * batch : (i + 1) * batch]
            done += 1
        epoch += 1


def reached(run: dict[str, Any], level: float) -> float | None:
    """Seconds at the first check at or above the level; None where there is none."""
    return next((check["seconds"] for check in run["checks"] if check["elbo"] >= level), None)


def summary(schedule: dict[str, Any], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each level and contestant: seconds by seed, and how many more than those it is held against."""
    found = []
    for level in schedule["levels"]:
        seconds = {
            who: {
                r["seed"]: s for r in runs if r["contestant"] == who and (s := reached(r, level)) is not None
            }
            for who in schedule["contestants"]
        }
        for who, values in seconds.items():
            more = paired_difference(values, seconds[schedule["against"]])
            line: dict[str, Any] = {"level": level, "contestant": who, "seconds": values}
            if more is not None and who != schedule["against"]:
                line |= {"more": more.mean, "low": more.low, "high": more.high}
            found.append(line)
    return found


def apart(who: str, seed: int, schedule: dict[str, Any], cache: str) -> dict[str, Any]:
    """`train` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        command = [sys.executable, __file__, "--out", str(out), "--one", who, str(seed)]
        command += ["--schedule", json.dumps(schedule)]
        subprocess.run(command, check=True, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache})
        return json.loads(out.read_text(encoding="utf-8"))


def written(record: dict[str, Any]) -> str:
    """The table as text."""
    lines = [f"test elbo   seconds, mean over seeds, and how many more than {SCHEDULE['against']}"]
    for line in record["summary"]:
        values = list(line["seconds"].values())
        mean = f"{sum(values) / len(values):8.1f}" if values else "       -"
        more = f"{line['more']:+8.1f}" if "more" in line else ""
        if line.get("low") is not None:
            more += f" [{line['low']:+.1f}, {line['high']:+.1f}]"
        lines.append(f"{line['level']:8.0f}    {line['contestant']:12s}{mean} {more}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--schedule", type=json.loads, default={}, help="what differs from SCHEDULE, as JSON")
    parser.add_argument("--one", nargs=2, metavar=("WHO", "SEED"), help="train this one alone")
    options = parser.parse_args(arguments)
    schedule = {**SCHEDULE, **options.schedule}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.one:
        record = train(options.one[0], int(options.one[1]), schedule)
    else:
        record = together(schedule)
        print(written(record), f"\nwritten: {options.out}")
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def together(schedule: dict[str, Any]) -> dict[str, Any]:
    """All runs, the contestants of a seed one after another, each seed beginning with another one."""
    runs, names = [], schedule["contestants"]
    with tempfile.TemporaryDirectory() as cache:
        first = apart(schedule["warmed_by"], schedule["seeds"][0], schedule, cache)
        for i, seed in enumerate(schedule["seeds"]):
            for who in names[i % len(names) :] + names[: i % len(names)]:
                runs.append(apart(who, seed, schedule, cache))
                last = runs[-1]["checks"][-1]
                print(f"{who}, seed {seed}: {last['elbo']:.1f} after {last['seconds']:.1f} s", flush=True)
    return {
        "schedule": schedule, "environment": environment(), "first": first, "runs": runs,
        "summary": summary(schedule, runs),
    }  # fmt: skip


if __name__ == "__main__":
    on_one_core()
    main()

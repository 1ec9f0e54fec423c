"""Time a training step of ours beside Pyro, torch by hand and NumPyro, in turns, on one core.

    python benchmarks/step_time.py --out benchmarks/results/step_time.json --processes 3
    python benchmarks/step_time.py --out /tmp/one.json --case mlp iwae_5 --pairs 15

    ours eager        EagerStep: the pair by our terms, fused Adam
    ours graph        GraphStep: the same step as one flat graph, compiled with its Adam
    ours cudagraph    the same captured whole (with a GPU)
    ours graph bf16   ours graph with the nets in bf16, log-probabilities in float32
    hand eager        the twin (`twins.py`) in plain torch, fused Adam
    hand compiled     the twin's loss by torch.compile, autograd, fused Adam
    hand traced       the twin's loss traced and compiled as ours is
    Pyro SVI          SVI.step as shipped: Trace_ELBO or RenyiELBO(alpha=0), pyro.optim.Adam
    Pyro unvalidated  the same with validation off
    NumPyro           SVI.update in a jitted lax.scan

Each takes steps of one batch of the digits, gathered by index from bytes: nets, start, batch and Adam (1e-3)
are the same, the optimizer is timed with the rest. Before it is timed, a twin's loss and gradients are seen
to equal ours under the same noise, and NumPyro's mean loss to agree within the error of sampling. A
contestant that cannot run is written down with its reason. On a GPU, times are those of device events.

All contestants of a round are in one process. Where its memory happens to lie moves a ratio by a few per
cent: with --processes, the rounds are those of several, and each limit says what every one of them found.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from contestants import LR, Case, Field, contestants, has_numpyro, parts
from interleaved import ratio, rounds
from timed_cases import cases, held
from torch import Tensor

from ppvae.data import Dataset, load
from ppvae.environment import environment
from ppvae.estimators import find as find_estimator


def seen_equal(field: Field, rows: Tensor) -> dict[str, float]:
    """How far the twin's loss and gradients lie from ours under the same noise.

    Raises:
        AssertionError: further than rounding.
    """
    built, twin, x = field.built(), field.twin(), field.x(rows)
    model, guide = parts(built)
    torch.manual_seed(1)
    ours = find_estimator(field.case.estimator)(built)({"x": x})
    ours.backward()
    torch.manual_seed(1)
    theirs = field.case.loss(twin, x)
    theirs.backward()
    ours, theirs = ours.detach(), theirs.detach()
    parameters = [*guide.parameters(), *model.parameters()]
    far = max(_distance(a.grad, b.grad) for a, b in zip(twin.parameters(), parameters, strict=True))
    apart = abs(float(ours - theirs)) / abs(float(ours))
    assert apart < 1e-5, f"the twin's loss is {float(theirs)}, ours {float(ours)}"
    assert far < 1e-3, f"a gradient of the twin lies {far:.1e} from ours"
    return {"loss": apart, "gradients": far}


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    assert a is not None
    assert b is not None
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def numpyro_seen_equal(field: Field, numpyro: Any, rows: Tensor, draws: int = 20) -> float:
    """NumPyro's mean loss less ours at the common start, in standard errors.

    Raises:
        AssertionError: more than 5.
    """
    built = field.built()
    estimator = find_estimator(field.case.estimator)
    found = []
    for seed in range(draws):
        torch.manual_seed(seed)
        found.append(estimator(built)({"x": field.x(rows)}).item())
    theirs, ours = torch.tensor(numpyro.losses(rows, draws)), torch.tensor(found)
    error = ((theirs.var() + ours.var()) / draws).sqrt()
    apart = float((theirs.mean() - ours.mean()) / error)
    assert abs(apart) < 5, f"NumPyro's loss is {theirs.mean():.3f}, ours {ours.mean():.3f}"
    return apart


def timed(name: str, case: Case, dataset: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """One case: who was timed, milliseconds a step of each round, and what was not."""
    batch, device, steps = options.batch, torch.device(options.device), options.steps or case.steps
    field = Field(case, dataset, device)
    order = torch.randperm(len(field.train), generator=torch.Generator().manual_seed(0)).to(device)
    chunk = [order[i * batch : (i + 1) * batch] for i in range(steps)]
    equal: dict[str, float] = seen_equal(field, chunk[0])
    running, begun, missing = {}, {}, {}
    for who, contestant in contestants(field).items():
        if who == "NumPyro":
            equal["numpyro_z"] = numpyro_seen_equal(field, contestant, chunk[0])
        started = time.perf_counter()
        try:
            for _ in range(2):
                contestant(chunk)
        except Exception as error:
            missing[who] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        begun[who] = time.perf_counter() - started
        running[who] = partial(contestant, chunk)
        print(f"{name}: {who} began in {begun[who]:.1f} s", flush=True)
    found = rounds(running, options.pairs, device, options.clock)
    milliseconds = {who: [s * 1e3 / steps for s in seconds] for who, seconds in found.items()}
    about = {"steps": steps, "equal": equal, "begun_seconds": begun, "missing": missing}
    return about | compared(milliseconds)


def compared(milliseconds: dict[str, list[float]]) -> dict[str, Any]:
    """The times of all rounds, their medians, and their ratios to ours."""
    return {
        "milliseconds": milliseconds,
        "median": {who: median(values) for who, values in milliseconds.items()},
        "to_ours_graph": {
            who: ratio(values, milliseconds["ours graph"])
            for who, values in milliseconds.items() if "ours graph" in milliseconds
        },
    }  # fmt: skip


def joined(records: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of several processes: their rounds one after another. Who was missing in one is left out."""
    cases = {}
    for name in records[0]["cases"]:
        parts = [record["cases"][name] for record in records]
        missing = {who: why for part in parts for who, why in part["missing"].items()}
        times = {
            who: [ms for part in parts for ms in part["milliseconds"][who]]
            for who in parts[0]["milliseconds"]
            if who not in missing
        }
        cases[name] = {**parts[0], "missing": missing, **compared(times)}
    return {
        **records[0], "processes": len(records), "rounds": sum(r["rounds"] for r in records),
        "seconds": sum(r["seconds"] for r in records), "load_before": max(r["load_before"] for r in records),
        "cases": cases, "must_hold": held(cases, [r["cases"] for r in records]),
    }  # fmt: skip


def by_processes(arguments: list[str], count: int) -> dict[str, Any]:
    """What this script finds in several processes, one after another."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            out = Path(folder) / f"{i}.json"
            subprocess.run(
                [sys.executable, __file__, *arguments, "--out", str(out), "--processes", "1"], check=True
            )
            records.append(json.loads(out.read_text(encoding="utf-8")))
    return joined(records)


def written(results: dict[str, dict], limits: list[dict[str, Any]]) -> str:
    """The tables as text."""
    lines = []
    for case, found in results.items():
        lines.append(f"\n{case}: milliseconds a step, and the time over that of ours graph")
        for who, value in found["median"].items():
            to = found["to_ours_graph"].get(who)
            against = f"{to['ratio']:6.3f} [{to['low']:.3f}, {to['high']:.3f}]" if to else ""
            lines.append(f"  {who:18s}{value:9.3f}  {against}")
        lines += [f"  {who:18s} was not timed: {why}" for who, why in found["missing"].items()]
    lines.append("\nat most")
    for line in limits:
        shown = f"{line['ratio']:.3f} [{line['low']:.3f}, {line['high']:.3f}]" if "ratio" in line else "-"
        word, who = "holds" if line["holds"] else "FAILS", f"{line['first']:16s}/ {line['second']:16s}"
        each = f"   by process: {', '.join(f'{r:.3f}' for r in line['each'])}" if "each" in line else ""
        lines.append(f"  {word}  {line['case']:10s}{who}{shown:24s} <= {line['limit']}{each}")
    return "\n".join(lines)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    packages = {}
    for name in ("numpyro", "jax", "jaxlib", "pyro-ppl", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return environment() | {
        "packages": packages, "batch": options.batch, "rounds": options.pairs, "lr": LR,
        "timed_on": options.device, "clock": options.clock if options.device == "cpu" else "device events",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(), "machine": platform.machine(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }  # fmt: skip


def on_one_core() -> None:
    """Keep this process, with all threads that it will start, to the core that it is on; torch to one thread.
    JAX has not been imported yet."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a GPU's memory is for all of them
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def asked(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", nargs="+", choices=list(cases()), default=list(cases()))
    parser.add_argument("--pairs", type=int, default=9, help="rounds, each of which times every contestant")
    parser.add_argument("--processes", type=int, default=1, help="each of which runs all rounds")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, help="of a round, in place of the case's own")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: where the core is shared"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def here(options: argparse.Namespace) -> dict[str, Any]:
    """What this process finds; written case by case."""
    dataset, started = load("digits"), time.perf_counter()
    record = about(options)
    if not has_numpyro():
        print('no NumPyro here: pip install "ppvae[benchmarks]"')
    results: dict[str, dict] = {}
    for name in options.case:
        results[name] = timed(name, cases()[name], dataset, options)
        limits = held(results)
        record |= {"seconds": time.perf_counter() - started, "cases": results, "must_hold": limits}
        write(options.out, record)
    return record


def write(out: Path, record: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = asked(arguments)
    if options.processes == 1:
        record = here(options)
    else:
        record = by_processes(arguments, options.processes)
        write(options.out, record)
    print(written(record["cases"], record["must_hold"]))
    print(f"\n{record['seconds']:.0f} s; written: {options.out}")
    return record


if __name__ == "__main__":
    on_one_core()
    main()

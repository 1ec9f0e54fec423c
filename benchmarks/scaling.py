"""Measure a step of one process and of two on this machine, and say what more would cost.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json [--rounds 15]
    python benchmarks/scaling_page.py

Two processes, joined by gloo and pinned to a core each, take turns, round by round: rank 0 alone, both on the
same batch, both on the doubled one; all-reduces of several sizes, one flat and one a tensor; and rank 0 alone
over sizes of the net and of the batch. Through these points go the line and the ring of `ring.py`, which
then say the step time over ranks, networks and sizes. Networks and devices that are not this machine are
assumed, and written down as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import ring
import torch
from interleaved import ratio

from ppvae import TrainConfig
from ppvae.build import build
from ppvae.data import load
from ppvae.engine import EagerStep
from ppvae.engine.ranks import Ranks, joined
from ppvae.engine.shared_step import SharedStep
from ppvae.environment import environment
from ppvae.estimators import find as find_estimator
from ppvae.registry import find as find_pair

HIDDEN, BATCH = 400, 128
NETS, BATCHES = (100, 400, 1600), (32, 128, 512)
SIZES = (2**10, 2**14, 2**18, 2**22, 2**24)
"""Bytes of the all-reduces that are timed."""
NETWORKS = {
    "1 Gb/s Ethernet": ring.Network(latency=50e-6, bandwidth=0.125e9),
    "10 Gb/s Ethernet": ring.Network(latency=30e-6, bandwidth=1.25e9),
    "100 Gb/s InfiniBand": ring.Network(latency=5e-6, bandwidth=12.5e9),
    "NVLink": ring.Network(latency=3e-6, bandwidth=300e9),
}
"""Assumed: what is sold under these names."""
FASTER, LAUNCH = 1000.0, 0.5e-3
"""Assumed of an accelerator: it computes so many times as fast as the core, and a step costs it so many
seconds however small."""
RANKS = (1, 2, 4, 8, 16, 64, 256)
PARAMETERS = (653_000, 10_000_000, 100_000_000, 1_000_000_000)
ROWS = {"this core": 128, "accelerator": 1024}
"""Rows of one process, where the batch grows with the ranks."""


class Timed:
    """Steps of the MLP pair on the digits, always over the same rows."""

    def __init__(self, ranks: Ranks, batch: int, hidden: int = HIDDEN):
        data = load("digits")
        built = build(find_pair("vae"), data, hidden=[hidden], latent=20)
        cls = SharedStep if ranks.size > 1 else EagerStep
        self.step = cls(built, find_estimator("elbo"), TrainConfig(), data.train.batch)
        self.rows = torch.arange(batch)[ranks.share(batch)]
        self.tensors = list(built.parameters())
        self.parameters = sum(p.numel() for p in self.tensors)
        self(3)

    def __call__(self, steps: int) -> float:
        """Seconds a step."""
        return per_call(lambda: self.step(self.rows, {}), steps)


def per_call(function: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


def rank(rounds: int, steps: int) -> dict[str, Any]:
    """What one of the two processes does: the times of all rounds, in seconds."""
    with joined(torch.device("cpu")) as ranks:
        both = {"two": Timed(ranks, BATCH), "two, doubled": Timed(ranks, 2 * BATCH)}
        like = [torch.zeros_like(p) for p in both["two"].tensors]
        flat = torch.zeros(both["two"].parameters)
        shared: dict[str, Callable[[], float]] = {n: lambda t=t: t(steps) for n, t in both.items()}
        shared["flat"] = lambda: per_call(lambda: ranks.add(flat), 5)
        shared["separate"] = lambda: per_call(lambda: [ranks.add(t) for t in like], 5)
        for size in SIZES:
            vector = torch.zeros(size // 4)
            shared[f"all_reduce {size}"] = lambda v=vector: per_call(lambda: ranks.add(v), 5)
        alone: dict[str, Timed] = {}
        if ranks.first:
            alone = {"one": Timed(Ranks(), BATCH), "one, doubled": Timed(Ranks(), 2 * BATCH)}
            alone |= {f"grid {h} {b}": Timed(Ranks(), b, h) for h in NETS for b in BATCHES}
        found: dict[str, Any] = {name: [] for name in (*alone, *shared)}
        for _ in range(rounds):
            for name, timed in alone.items():
                found[name].append(timed(steps if name.startswith("one") else max(2, steps // 5)))
            for name, run in shared.items():
                ranks.gathered(None)  # they begin together
                found[name].append(run())
        sizes = {name: timed.parameters for name, timed in (alone | both).items()}
        return {"first": ranks.first, "times": found, "parameters": sizes}


def measure(rounds: int, steps: int) -> dict[str, Any]:
    """What rank 0 of two pinned processes has to tell.

    Raises:
        SystemExit: one of them failed.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit(
            "two processes want two cores, and this one may use one: run it where there are more"
        )
    together = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        command = [
            sys.executable,
            __file__,
            "--out",
            str(out),
            "--rounds",
            str(rounds),
            "--steps",
            str(steps),
        ]
        started = [
            subprocess.Popen(
                [*command, "--core", str(cores[i])], env={**os.environ, **together, "RANK": str(i)}
            )
            for i in range(2)
        ]
        statuses = [process.wait() for process in started]
        if any(statuses):
            raise SystemExit("one of the processes failed, see above")
        return json.loads(out.read_text())


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians in seconds; and how many times as fast two are, over rounds."""
    return {
        "seconds": {name: median(values) for name, values in times.items()},
        "same batch": ratio(times["one"], times["two"]),
        "doubled batch": ratio(times["one, doubled"], times["two, doubled"]),
        "as many rows a process": ratio(times["one"], times["two, doubled"]),
        "separate over flat": ratio(times["separate"], times["flat"]),
    }


def fits(record: dict[str, Any]) -> tuple[ring.Device, ring.Network, dict[str, Any]]:
    """The line and the ring through what was measured, and how far from it they lie."""
    seconds, sizes = record["summary"]["seconds"], record["parameters"]
    grid = [(sizes[n], int(n.split()[2]), t) for n, t in seconds.items() if n.startswith("grid")]
    reduces = [(int(n.split()[1]), t) for n, t in seconds.items() if n.startswith("all_reduce")]
    device, missed = ring.fitted_device(grid)
    network, lost = ring.fitted_network(reduces, 2)
    points = {
        "one": (BATCH, 1),
        "one, doubled": (2 * BATCH, 1),
        "two": (BATCH, 2),
        "two, doubled": (2 * BATCH, 2),
    }
    said = {n: ring.step(device, network, sizes["two"], *point) for n, point in points.items()}
    return device, network, {
        "device": dataclasses.asdict(device), "largest_relative_error": missed,
        "network": dataclasses.asdict(network), "largest_relative_error_of_all_reduce": lost, "said": said,
    }  # fmt: skip


def simulated(core: ring.Device) -> list[dict[str, Any]]:
    """Step times over ranks, and where they stop paying, by device, network and number of parameters."""
    accelerator = ring.Device(LAUNCH, core.update / FASTER, core.row / FASTER)
    found = []
    for name, device in {"this core": core, "accelerator": accelerator}.items():
        for net, network in NETWORKS.items():
            for parameters in PARAMETERS:
                rows = ROWS[name]
                by_ranks = {r: ring.step(device, network, parameters, rows * r, r) for r in RANKS}
                found.append(
                    {
                        "device": name,
                        "network": net,
                        "parameters": parameters,
                        "rows": rows,
                        "seconds": by_ranks,
                        "half_batch": {r: ring.half_batch(device, network, parameters, r) for r in RANKS[1:]},
                        "most_ranks": ring.most_ranks(device, network, parameters, rows * 8),
                        "overlap": {
                            r: ring.overlap_saves(device, network, parameters, rows * r, r) for r in RANKS[1:]
                        },
                    }
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
        found = rank(options.rounds, options.steps)
        if found["first"]:
            options.out.write_text(json.dumps(found))
        return
    told = measure(options.rounds, options.steps)
    record = {"environment": environment() | {"threads": 1}, "rounds": options.rounds, "batch": BATCH}
    record |= {"parameters": told["parameters"], "summary": summary(told["times"])}
    core, _, record["fits"] = fits(record)
    networks = {name: dataclasses.asdict(network) for name, network in NETWORKS.items()}
    accelerator = {"faster": FASTER, "overhead": LAUNCH}
    record["assumed"] = {"networks": networks, "accelerator": accelerator, "buckets": ring.BUCKETS}
    record["simulated"] = simulated(core)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()

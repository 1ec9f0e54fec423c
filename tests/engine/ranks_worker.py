"""One of the processes of the tests of several: python -m tests.engine.ranks_worker FOLDER, under torchrun's
variables. It goes through all scenarios and leaves what each gave in FOLDER/rank<N>.pt."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ppvae import fit
from ppvae.engine import SHARED_STEPS, costs
from ppvae.engine.costs import Cost
from ppvae.engine.graph import GraphStep
from ppvae.engine.program import Halves
from ppvae.engine.ranks import Ranks, joined, start_together
from ppvae.engine.shared_step import SharedAutoStep
from ppvae.errors import PPVAEError
from ppvae.estimators import ELBO, Objective
from tests.engine.shared_cases import CASES, ROOT, step_of, trained
from tests.toys import MLP_VAE, bits

torch.set_num_threads(1)
QUICK: dict[str, Any] = {"progress": False, "check": False, "engine": "eager", "batch": 7, "lr": 0.01}


def exact(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Three steps of every case with noise that does not know of processes."""
    found = {}
    for name, (dtype, case) in CASES.items():
        torch.set_default_dtype(dtype)
        found[name] = trained(ranks=ranks, **case)
    torch.set_default_dtype(torch.float32)
    return found


def engines(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """The same steps by the eager step and by replaying the flat graph, with each process's own noise."""
    found = {}
    kinds: dict[str, dict[str, Any]] = {"eager": {}, "graph": {"compile": False}}
    for engine, options in kinds.items():
        built, estimator, eager, batch = step_of("normal", "iwae", 7, ranks, optimizer="adam", lr=0.01)
        step = SHARED_STEPS[engine](built, estimator, eager.config, **options)
        torch.manual_seed(ranks.rank)
        for _ in range(4):
            step(batch, {})
        found[engine] = built.state_dict()
        if isinstance(step, GraphStep):
            found["reason"] = step.reason
    return found


def chosen(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """What `auto` comes to where rank 0 finds that a graph pays, and rank 1 that it does not; where rank 1
    has none; where rank 0 alone finds that it is slower. Graphs are replayed, and the clocks made up."""

    def uncompiled(self, traced, given, knobs):
        self.programs[self._kind(given, knobs)] = Halves(traced, self.updates)
        return name != "fails" or ranks.first

    def now(self):
        slow = self.chosen == "graph" and ranks.first == (name == "slower")
        return next(clock) * (10.0 if slow else 1.0)

    found = {}
    for name in ("pays", "fails", "slower"):
        clock = itertools.count()
        built, estimator, eager, batch = step_of("normal", "elbo", 7, ranks)
        step = SharedAutoStep(built, estimator, eager.config)
        step.left = 10**6
        with contextlib.ExitStack() as patches:
            for target, attribute, value in (
                (GraphStep, "compiled", uncompiled),
                (SharedAutoStep, "_now", now),
                (costs, "TRACING", 0.0 if ranks.first else 1e9),
                (costs, "recall", lambda key: Cost(compiling=0.0, eager=1.0, graph=0.1)),
                (costs, "remember", lambda *_: None),
            ):
                patches.enter_context(mock.patch.object(target, attribute, value))
            for _ in range(45):
                step(batch, {})
        found[name] = {"chosen": step.chosen, "because": step.because, "state": built.state_dict()}
    return found


class Watched(ELBO):
    """Keeps the noise of each step, (z - loc) / scale."""

    def __init__(self):
        super().__init__()
        self.drawn: list[Tensor] = []

    def objective(self, terms, knobs):
        site = terms.sites["z"]
        normal = site.q.base_dist
        self.drawn.append(((site.value - normal.loc) / normal.scale).detach())
        return super().objective(terms, knobs)


def noise(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Noise and parameters of a training of two steps."""
    estimator = Watched()
    done = fit(MLP_VAE, {"x": bits(14)["x"], "y": torch.arange(14)}, estimator, steps=2, seed=5, **QUICK)
    return {"drawn": estimator.drawn, "state": done.built.state_dict(), "history": done.history}


def joint(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """A training without data: every rank has one row, the whole model."""
    place = f"{ROOT}/tests/proof_pairs/undirected.py:QUADRATIC"
    done = fit(place, estimator="elbo:particles=3", steps=3, log_every=1, **QUICK)
    return {"state": done.built.state_dict(), "losses": [entry["loss"] for entry in done.history]}


class Broken(ELBO):
    """In the second step, on rank 1, either the loss or the gradient is not finite, and the other is."""

    def __init__(self, ranks: Ranks, loss: bool):
        super().__init__()
        self.here, self.loss, self.calls = not ranks.first, loss, 0

    def objective(self, terms, knobs):
        found, self.calls = super().objective(terms, knobs), self.calls + 1
        if not self.here or self.calls != 2:
            return found
        loss = found.losses["all"]
        root = (loss - loss.detach()).sqrt()  # 0, of infinite slope
        return Objective(found.bound, {"all": loss + (float("nan") if self.loss else root)})


def nonfinite(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """The state after each of three steps of which the second is not finite on rank 1 alone."""
    found = {}
    for loss in (True, False):
        built, _, step, batch = step_of("normed", Broken(ranks, loss), 7, ranks, optimizer="adam")
        states, finite = [], []
        for _ in range(3):
            step(batch, {})
            states.append({name: value.clone() for name, value in built.state_dict().items()})
            finite.append((bool(step.finite), bool(step.own_finite)))  # type: ignore[attr-defined]
        moments = [s["exp_avg"] for o in step.optimizers.values() for s in o.state.values()]
        found[loss] = {"states": states, "finite": finite, "moments": moments}
    return found


class Reaching(ELBO):
    """On rank 0 the guide has no gradient in the steps of `without`."""

    def __init__(self, ranks: Ranks, without: set[int]):
        super().__init__()
        self.first, self.without, self.calls = ranks.first, without, 0

    def objective(self, terms, knobs):
        found, self.calls = super().objective(terms, knobs), self.calls + 1
        if self.calls in self.without and (self.first or self.without == {1}):
            return Objective(found.bound, {"model": found.losses["all"]})
        return found


def reach(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Steps in which one rank reaches less; then one that reaches what no rank did in the first."""
    built, _, step, batch = step_of("normal", Reaching(ranks, {1, 2}), 7, ranks)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    for _ in range(2):
        step(batch, {})
    _, _, late, batch = step_of("normal", Reaching(ranks, {1}), 7, ranks)
    late(batch, {})
    return {"before": before, "after": built.state_dict(), "late": error_of(late, batch, {})}


def start(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Parameters and buffers that differ at first; then options that do."""
    built, estimator, _, _ = step_of("normed", "nvil", 7, ranks)
    with torch.no_grad():
        for tensor in (*built.parameters(), *built.buffers()):
            tensor.add_(ranks.rank)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    start_together(ranks, built, estimator, {"lr": 0.1})
    told = error_of(start_together, ranks, built, estimator, {"lr": 0.1 * (1 + ranks.rank)})
    sizes = error_of(start_together, ranks, torch.nn.Linear(2, 2 + ranks.rank), estimator, {})
    return {"before": before, "after": built.state_dict(), "told": told, "sizes": sizes}


def runs(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Trainings with a run folder: straight on; in two parts; stopped by patience."""
    options = {**QUICK, "save": True, "optimizer": "adam", "log_every": 3, "checkpoint_every": 1}
    data = {"train": bits(29)["x"], "valid": bits(12, seed=1)["x"]}
    straight = fit(MLP_VAE, data, steps=9, out=folder / "straight", **options)
    begun = fit(MLP_VAE, data, steps=5, out=folder / "begun", **options)
    whole = fit(MLP_VAE, data, steps=9, resume=folder / "begun" / "latest")
    patient = fit(MLP_VAE, data, epochs=40, patience=1, out=folder / "patient", **{**options, "lr": 3.0})
    made = [trained.run is not None for trained in (straight, begun, whole, patient)]
    found = {"straight": straight, "whole": whole, "patient": patient, "begun": begun}
    return {"made": made, **{name: (t.step, t.built.state_dict(), t.history) for name, t in found.items()}}


def left(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Rank 1 has an error that somebody catches, and lives on; what does rank 0 get, and when?"""
    started, told, found = time.monotonic(), folder / "told", {}
    try:
        with joined(torch.device("cpu")):
            if not ranks.first:
                raise ValueError("of rank 1")
            ranks.add(torch.ones(3))
    except (ValueError, PPVAEError) as error:
        found = {"error": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - started}
    if ranks.first:
        told.touch()
    while not told.exists() and time.monotonic() - started < 40:
        time.sleep(0.1)
    return found


def error_of(function: Any, *args: Any, **options: Any) -> str | None:
    try:
        function(*args, **options)
    except PPVAEError as error:
        return f"{type(error).__name__}: {error}"
    return None


SCENARIOS = (exact, engines, chosen, noise, joint, nonfinite, reach, start, runs, left)


def main(folder: Path) -> None:
    with joined(torch.device("cpu")) as ranks:
        found = {scenario.__name__: scenario(ranks, folder) for scenario in SCENARIOS}
    torch.save(found, folder / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

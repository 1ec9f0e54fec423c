"""`compare`: a pair and some estimators in, a `Comparison` out."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from ppvae.comparison.folders import Folder, saved_options
from ppvae.comparison.grid import run_cells, run_laboratory
from ppvae.comparison.options import CompareConfig
from ppvae.comparison.plan import Estimators, Plan
from ppvae.comparison.result import Comparison
from ppvae.comparison.watching import GridProgress
from ppvae.environment import environment
from ppvae.errors import RunError, UsageError
from ppvae.pair import Pair
from ppvae.training import threads


def compare(
    pair: Pair | str | None = None,
    estimators: Estimators | None = None,
    data: Any = None,
    *,
    config: CompareConfig | None = None,
    save: bool = False,
    resume: str | Path | None = None,
    fresh: bool = False,
    **options: Any,
) -> Comparison:
    """Train estimators under one budget and look at their gradients: `compare("vae", ["elbo", "iwae:k=5"])`.

    Each estimator is trained with each seed; those of one seed start from the same parameters and see the
    same data in the same order. What one estimator refuses becomes its row, and the others go on.

    Args:
        pair: a `Pair`, a name, or the place of one; none: that of the comparison that goes on.
        estimators: names with options, or `Estimator`s, or both by a name of yours; the first is what the
            others are held against. None: `config.estimators`.
        data: anything that `ppvae.data.load` takes; none: `config.data`, or the pair's own data set.
        config: a `CompareConfig`; `options` are fields of it, and win.
        save: keep a folder under `config.out`, from which the comparison can go on.
        resume: the folder of a comparison to go on with, or "latest": what it has is not done again. More
            estimators or seeds may be asked for.
        fresh: with `resume`, throw away what the folder has, which any other change of the options needs.

    Raises:
        UsageError, PairError, DataError, RunError: each in one line that says the fix.
    """
    CompareConfig.from_dict(options)
    out = Path(options.get("out", (config or CompareConfig()).out))
    folder = None if resume is None else Folder.open(resume, out)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(folder)
            pair = _pair_of(folder.asked(), pair, data)
            config = config or saved_options(folder.path, out)
        if pair is None:
            raise UsageError("no pair to compare estimators on: give one, such as vae")
        config = dataclasses.replace(config or CompareConfig(), **options)
        with threads(config.threads):
            plan = Plan.make(pair, estimators, data, config)
            if folder is None and save:
                folder = stack.enter_context(Folder.create(config.out, plan.pair.name or "pair"))
            if folder is not None:
                folder.ask(plan.recorded, fresh)
            found = _run(plan, folder)
        if folder is not None:
            found.folder = found.write(folder.path)
        return found


def _run(plan: Plan, folder: Folder | None) -> Comparison:
    config = plan.config
    count = 0 if config.probe else config.seeds * len(plan.estimators)
    with GridProgress(count, config.progress) as progress:
        try:
            laboratory = run_laboratory(plan, folder, progress) if config.repeats else None
            cells = [] if config.probe else run_cells(plan, folder, progress)
        except BaseException:
            if folder is not None:
                progress.say(f"go on with: ppvae compare --resume {folder.path}")
            raise
    recorded = plan.recorded
    return Comparison(
        pair=recorded["pair"],
        estimators=list(plan.estimators),
        config={name: value for name, value in recorded.items() if name != "training"},
        training=recorded["training"],
        data=_about_data(plan),
        cells=cells,
        laboratory=laboratory,
        environment=environment(),
    )


def _about_data(plan: Plan) -> dict[str, Any]:
    if plan.dataset is None:
        return {}
    return {
        "name": plan.dataset.name,
        "hash": plan.dataset.hash,
        "binarization": plan.dataset.binarization,
        "sizes": {name: len(split) for name, split in plan.dataset.splits.items()},
    }


def _pair_of(saved: dict[str, Any], given: Pair | str | None, data: Any) -> Pair | str:
    """The pair to go on with: by its name, or given again; a folder names no file to import."""
    if saved.get("data_in_memory") and data is None:
        raise UsageError("the comparison is on data passed from Python: go on there, with data=...")
    if given is not None:
        return given
    name = saved.get("pair")
    if not isinstance(name, str):
        raise RunError("the comparison's grid.yaml names no pair: begin the comparison again")
    if saved.get("pair_in_memory") or ":" in name or name.endswith(".py"):
        raise UsageError(f"the comparison is of your own pair {name}: give it again, before --resume")
    return name

"""The grid: every estimator with every seed, and what a grid that was stopped has done already."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch

from ppvae.built import Built
from ppvae.comparison.cells import Cell, Evaluation, train_cell
from ppvae.comparison.failures import told
from ppvae.comparison.findings import Laboratory
from ppvae.comparison.folders import Folder
from ppvae.comparison.laboratory import probe
from ppvae.comparison.plan import Plan
from ppvae.comparison.watching import GridProgress
from ppvae.data.dataset import Split
from ppvae.errors import PairError, RunError, UsageError
from ppvae.trained import materialize, prepare
from ppvae.training import run_loop

BATCH_SEED = 50_000
"""Of the laboratory's batches."""


def run_cells(plan: Plan, folder: Folder | None, progress: GridProgress) -> list[Cell]:
    """Train every cell that the folder does not hold; a cell is kept as soon as it is done, unless it failed:
    that one is tried again when the grid goes on.

    Seeds are the outer loop: a grid that is stopped early has as many seeds of one estimator as of the other,
    and what slows the machine for a while slows all of them.
    """
    done = []
    for seed in seeds(plan):
        for name in plan.estimators:
            settings = plan.settings(name)
            cell = None if folder is None else folder.cell(settings, name, seed)
            kept = cell is not None
            if cell is None:
                progress.begin(f"{name}, seed {seed}")
                cell = _train(plan, folder, progress, name, seed)
                if folder is not None and cell.status != "failed":
                    folder.keep_cell(settings, cell)
            progress.finished(cell, kept=kept)
            done.append(cell)
    return done


def seeds(plan: Plan) -> range:
    return range(plan.config.seed, plan.config.seed + plan.config.seeds)


def _train(plan: Plan, folder: Folder | None, progress: GridProgress, name: str, seed: int) -> Cell:
    config, save = plan.config, plan.config.keep and folder is not None
    training, data = dataclasses.replace(plan.training, seed=seed), plan.data
    if save:
        assert folder is not None
        training = dataclasses.replace(training, out=folder.path / "runs")
    else:  # what is loaded already need not be loaded again
        training, data = _with_data(training), plan.dataset
    return train_cell(
        plan.place,
        data,
        plan.estimators[name],
        name,
        training,
        Evaluation(config.curve_points, config.curve_n, config.curve_k, config.eval_k, config.eval_n),
        budget_seconds=config.budget_seconds,
        save=save,
        told=progress.told,
    )


def _with_data(training):
    return dataclasses.replace(training, data=None, binarization=None, train_n=None)


def run_laboratory(plan: Plan, folder: Folder | None, progress: GridProgress) -> Laboratory:
    """The gradients of all estimators where `probe_steps` steps of the first one lead, on one batch."""
    settings = plan.laboratory_settings
    kept = None if folder is None else folder.laboratory(settings)
    if kept is not None:
        return kept
    progress.begin("gradient laboratory")
    built, at, step = _parameters(plan)
    batch = _batches(plan, built)
    found = probe(
        built,
        batch(0),
        plan.estimators,
        settle_on=lambda i: batch(i + 1),
        repeats=plan.config.repeats,
        seed=plan.config.seed,
        step=step,
        told=progress.counted,
    )
    found.at = at
    if folder is not None and all(probed.failed is None for probed in found.probes):
        folder.keep_laboratory(settings, found)
    return found


def _parameters(plan: Plan) -> tuple[Built, str, int]:
    """The pair at the laboratory's parameters, which these are in words, and the step."""
    steps, training = plan.config.probe_steps, _with_data(plan.training)
    seed = f"seed {training.seed}"
    for name, estimator in plan.estimators.items() if steps else ():
        try:
            trained = run_loop(
                plan.place,
                plan.dataset,
                copy.deepcopy(estimator),
                dataclasses.replace(training, steps=steps, schedule="constant"),
            )
        except (PairError, UsageError, RunError):  # refused, or diverged: the next one may do
            continue
        except Exception as error:  # its own training tells the line
            told(error)
            continue
        if not all(parameter.isfinite().all() for parameter in trained.built.parameters()):
            continue
        return trained.built, f"those after {steps} step{'s' if steps > 1 else ''} of {name} ({seed})", steps
    _, built, dataset = prepare(plan.place, plan.dataset, training)
    materialize(built, dataset)
    return built, f"the initial ones ({seed})", 0


def batches(train: Split, size: int) -> Callable[[int], dict[str, torch.Tensor]]:
    """The i-th batch of the training data in one shuffled order, round and round; the same for all."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(BATCH_SEED))
    size = min(size, len(train))

    def batch(i: int) -> dict[str, torch.Tensor]:
        rows = order.roll(-i * size)[:size].to(train.device)
        bits = torch.Generator(train.device).manual_seed(BATCH_SEED + i)
        return train.batch(rows, bits)

    return batch


def _batches(plan: Plan, built: Built) -> Callable[[int], dict[str, torch.Tensor]]:
    """Those of the laboratory, where the pair lies; without data, an empty one."""
    if plan.dataset is None:
        return lambda i: {}
    batch, device = batches(plan.dataset.train, plan.training.batch), built.device or torch.device("cpu")
    return lambda i: {name: value.to(device) for name, value in batch(i).items()}

"""The step that is looked at: a pair, its estimator and its data, as training puts them together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.data import Dataset
from ppvae.engine import EagerStep, GraphStep
from ppvae.engine.eager import as_given
from ppvae.estimators import Estimator, spelled
from ppvae.estimators import find as find_estimator
from ppvae.linter import check
from ppvae.pair import Pair
from ppvae.trained import materialize, prepare
from ppvae.training import own_random_state

BATCHES = 8
"""Batches that the steps take in turn, of different data."""


@dataclass
class Subject:
    """A pair with its modules made, and its step in both forms: they train the same parameters."""

    pair: Pair
    built: Built
    dataset: Dataset | None
    estimator: Estimator
    config: TrainConfig
    eager: EagerStep
    graph: GraphStep
    batches: list[Any]
    """What a step is given: the indices of its data; of a pair without data nothing."""
    knobs: dict[str, Tensor]
    """As they stand at the first step of training."""

    @property
    def device(self) -> torch.device:
        return self.built.device or torch.device("cpu")

    @property
    def rows(self) -> int:
        """Data in a batch; 1 for a pair without data."""
        return 1 if self.dataset is None else len(self.batches[0])

    def read(self) -> dict[str, Tensor]:
        """The first batch."""
        return dict(self.eager.read(self.batches[0]))


def subject(pair: Pair | str, data: Any, config: TrainConfig) -> Subject:
    """Check the pair as training does, make it, and take its first step, which Pyro validates.

    Raises:
        PPVAEError: in one line that says the fix.
    """
    estimator = find_estimator(config.estimator)
    config = dataclasses.replace(config, estimator=spelled(estimator))
    found, built, dataset = prepare(pair, data, config)
    if config.check:
        check(found, dataset, built=built, seed=config.seed).raise_if_broken()
    materialize(built, dataset)
    read, batches = as_given, [{}]
    if dataset is not None:
        train = dataset.train.to(built.device or "cpu")
        read, batches = train.batch, _indices(len(train), config, built.device)
    with own_random_state(config.seed):
        estimator.prepare(built, {k: v.to(built.device) for k, v in _two(dataset).items()})
    estimator.to(built.device)
    built.train()
    eager = EagerStep(built, estimator, config, read)
    graph = GraphStep(built, estimator, config, read)
    made = Subject(found, built, dataset, estimator, config, eager, graph, batches, {})
    made.knobs = _knobs(made)
    for step in (eager, graph):
        step(batches[0], made.knobs)
    return made


def _indices(rows: int, config: TrainConfig, device: torch.device | None) -> list[Tensor]:
    size = min(config.batch, rows)
    generator = torch.Generator().manual_seed(config.seed)
    orders = [torch.randperm(rows, generator=generator)[:size] for _ in range(BATCHES)]
    return [order.to(device) for order in orders]


def _two(dataset: Dataset | None) -> dict[str, Tensor]:
    return {} if dataset is None else dataset.train.batch(torch.arange(min(2, len(dataset.train))))


def _knobs(made: Subject) -> dict[str, Tensor]:
    moved = made.estimator.schedule(0)
    if made.config.kl_warmup:
        moved = {**moved, "beta": 0.0}
    return {name: torch.tensor(value, device=made.built.device) for name, value in moved.items()}

"""`fit`: a pair and data in, a trained pair and its history out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch

from ppvae import launched
from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.data import Dataset
from ppvae.engine.ranks import joined, start_together
from ppvae.errors import UsageError
from ppvae.estimators import Estimator, spelled
from ppvae.estimators import find as find_estimator
from ppvae.linter import check as check_pair
from ppvae.loop import Loop
from ppvae.pair import Pair
from ppvae.registry import find, names, source_hash
from ppvae.resuming import go_on, keep
from ppvae.runs import Run
from ppvae.state import capture_generators, noise_seed, restore_generators
from ppvae.trained import Trained, device_of, materialize, prepare


def fit(
    pair: Pair | str,
    data: Any = None,
    estimator: Estimator | str | None = None,
    *,
    config: TrainConfig | None = None,
    save: bool = False,
    resume: Run | str | Path | None = None,
    **options: Any,
) -> Trained:
    """Train a pair: `fit("vae", epochs=20)`, `fit(PAIR, x, IWAE(particles=50), batch=64)`.

    Args:
        pair: a `Pair`, a name, or the place of one (`file.py:PAIR`).
        data: anything that `ppvae.data.load` takes; none: `config.data`, or the pair's own data set.
        estimator: an `Estimator` or its name with options; none: `config.estimator`.
        config: a `TrainConfig`; none: that of the resumed run, else the defaults with the pair's own
            (`Pair(train=)`). `options` are fields of it, and win.
        save: keep a run folder under `config.out`.
        resume: a run folder (or its path) to go on with, bit-exactly, from its last checkpoint.

    The random state of the caller is left as it was. Started by torchrun, the processes share each batch, and
    rank 0 alone has the run folder.

    Raises:
        UsageError, PairError, DataError, RunError: each in one line that says the fix.
    """
    run = Run.open(resume, write=launched.rank() == 0) if isinstance(resume, str | Path) else resume
    if config is None:
        config = (
            TrainConfig.from_dict(dict(find(pair).train)) if run is None else TrainConfig.from_run(run.config)
        )
    if run is not None and "epochs" in options:
        options = {"steps": None, **options}  # the run's own number of steps would win over it
    config = dataclasses.replace(config, **_known(options))
    objective = find_estimator(config.estimator if estimator is None else estimator)
    with threads(config.threads):
        return run_loop(pair, data, objective, config, run=run, save=save)


def run_loop(
    pair: Pair | str,
    data: Any,
    objective: Estimator,
    config: TrainConfig,
    *,
    run: Run | None = None,
    save: bool = False,
    make: Callable[..., Loop] = Loop,
) -> Trained:
    """What `fit` does once its options are understood; `make(pair, built, dataset, objective, config)` is the
    loop, or one that does more on its way."""
    config = dataclasses.replace(config, estimator=spelled(objective))
    if config.kl_warmup and not hasattr(objective, "beta"):
        raise UsageError(
            f"{config.estimator} has no beta that kl_warmup could raise: leave it out, or use elbo"
        )
    with joined(device_of(config.device)) as ranks:
        with ranks.first_alone():  # it fetches the data
            found, built, dataset = prepare(pair, data, config)
        if config.check and ranks.first:
            check_pair(found, dataset, built=built, seed=config.seed).raise_if_broken()
        materialize(built, dataset)
        with own_random_state(config.seed):  # its nets start from the seed, too, and move no training's draw
            _prepare(objective, built, dataset)
        objective.to(built.device)
        about = _about(pair, found, dataset, data)
        start_together(ranks, built, objective, {**config.to_dict(), **about})
        with own_random_state(noise_seed(config.seed, ranks.rank)):
            loop = make(found, built, dataset, objective, config)
            if run is not None:
                go_on(loop, run, about)
            elif save and ranks.first:
                data_name = "none" if dataset is None else dataset.name
                saved = {**config.to_dict(), **about}
                loop.run = Run.create(config.out, found.name or "pair", data_name, config.estimator, saved)
            if run is not None or save:
                loop.keep = partial(keep, loop)
            return loop.go()


def _prepare(objective: Estimator, built: Built, dataset: Dataset | None) -> None:
    """What the estimator makes from one batch must exist before the optimizers do."""
    batch = {} if dataset is None else dataset.train.batch(torch.arange(min(2, len(dataset.train))))
    objective.prepare(built, {name: value.to(built.device) for name, value in batch.items()})


def _known(options: dict[str, Any]) -> dict[str, Any]:
    TrainConfig.from_dict({**TrainConfig().to_dict(), **options})
    return options


def _about(pair: Pair | str, found: Pair, dataset: Dataset | None, data: Any) -> dict[str, Any]:
    """What a run records beside its options: which pair and which data it was trained on."""
    in_memory = not isinstance(pair, str) and not (pair.name in names() and find(pair.name) == pair)
    place = pair if isinstance(pair, str) else found.name or "pair"
    about: dict[str, Any] = {"pair": place, "pair_hash": source_hash(place), "pair_in_memory": in_memory}
    if dataset is not None:
        named = isinstance(data, str | Path)
        about |= {
            "data_name": dataset.name,
            "data_hash": dataset.hash,
            "data_in_memory": data is not None and not named,
        }
        about |= {"data": str(data)} if named else {}
    return about


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, torch uses so many CPU threads; none: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Inside, all generators start from `seed`; afterwards they are where the caller left them."""
    before = capture_generators()
    pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        restore_generators(*before)

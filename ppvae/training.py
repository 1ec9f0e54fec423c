"""The loop: data in, trained pair and history out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppvae import checkpoint
from ppvae.build import Built
from ppvae.config import TrainConfig
from ppvae.data import Dataset
from ppvae.errors import RunError, UsageError
from ppvae.estimators import Estimator, find as find_estimator
from ppvae.linter import check as check_pair
from ppvae.pair import Pair
from ppvae.progress import Progress
from ppvae.registry import source_hash
from ppvae.runs import Run
from ppvae.step import STEPS, EagerStep, PyroStep
from ppvae.trained import Trained, materialize, prepare, restore_parameters

VALIDATION_SEED = 20_000


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
        config: a `TrainConfig`; `options` are fields of it and win.
        save: keep a run folder under `config.out`.
        resume: a run folder (or its path) to go on with, bit-exactly, from its last checkpoint.

    Raises:
        UsageError, PairError, DataError, RunError: each in one line that says the fix.
    """
    config = dataclasses.replace(config or TrainConfig(), **_known(options))
    if isinstance(estimator, str):
        config = dataclasses.replace(config, estimator=estimator)
    objective = estimator if isinstance(estimator, Estimator) else find_estimator(config.estimator)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    run = Run.open(resume) if isinstance(resume, str | Path) else resume
    found, built, dataset = prepare(pair, data, config)
    if config.check:
        check_pair(found, dataset, built=built, seed=config.seed).raise_if_broken()
    materialize(built, dataset)
    objective.to(built.device)
    loop = _Loop(found, built, dataset, objective, config)
    if run is not None:
        loop.resume(run)
    elif save:
        loop.run = _new_run(pair, found, dataset, data, objective, config)
    return loop.go()


def _known(options: dict[str, Any]) -> dict[str, Any]:
    TrainConfig.from_dict({**TrainConfig().to_dict(), **options})
    return options


def _new_run(pair: Any, found: Pair, dataset: Dataset | None, data: Any, estimator: Estimator, config: TrainConfig) -> Run:
    place = pair if isinstance(pair, str) else f"{found.name or 'pair'}"
    saved: dict[str, Any] = {"pair": place, "pair_hash": source_hash(place), **config.to_dict()}
    if dataset is not None:
        saved |= {"data_name": dataset.name, "data_hash": dataset.hash, "data_in_memory": data is not None and not isinstance(data, str | Path)}
        if isinstance(data, str | Path):
            saved["data"] = str(data)
    data_name = dataset.name if dataset is not None else "none"
    return Run.create(config.out, found.name or "pair", data_name, config.estimator, saved)


class _Loop:
    """One training run: everything that changes while it goes, and that a checkpoint holds."""

    def __init__(self, pair: Pair, built: Built, dataset: Dataset | None, estimator: Estimator, config: TrainConfig):
        self.pair, self.built, self.estimator, self.config = pair, built, estimator, config
        self.dataset = dataset
        self.train = None if dataset is None else dataset.train.to(built.device)
        rows = 1 if self.train is None else len(self.train)
        self.batch = min(config.batch, rows)
        self.steps_per_epoch = max(1, rows // self.batch)
        self.total = self.steps_per_epoch * config.epochs
        if config.steps is not None:
            self.total = min(self.total, config.steps) if dataset is not None else config.steps
        self.run: Run | None = None
        self.step_count = 0
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, int] | None = None
        self.best_state: dict[str, Tensor] | None = None
        torch.manual_seed(config.seed)
        self.step: EagerStep | PyroStep = STEPS[config.engine](built, estimator, config)

    def go(self) -> Trained:
        built, config = self.built, self.config
        built.train()
        window = _Window(built.device)
        started, first = time.monotonic(), self.step_count
        with Progress(self.total, first, config.progress, label=self.pair.name) as progress:
            while self.step_count < self.total:
                epoch = self.step_count // self.steps_per_epoch
                for batch in self._batches(epoch):
                    window.add(self.step(batch, self._knobs(), self._lr_factor()))
                    self.step_count += 1
                    if self.step_count % config.log_every == 0 or self.step_count == self.total:
                        self._log(window.read(), epoch, started)
                        progress.update(self.step_count, self.history[-1])
                    if self.step_count >= self.total:
                        break
                if self._end_of_epoch(epoch, progress):
                    break
        self._keep_best()
        built.eval()
        if self.run is not None:
            self._checkpoint()
        return Trained(self.pair, built, self.dataset, config, self.history, self.run, self.step_count)

    def _batches(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """The rest of this epoch's batches: the order is a function of seed and epoch alone."""
        if self.train is None:
            for _ in range(self.steps_per_epoch):
                yield {}
            return
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.train), generator=generator).to(self.built.device)
        for i in range(self.step_count - epoch * self.steps_per_epoch, self.steps_per_epoch):
            yield self.train.batch(order[i * self.batch : (i + 1) * self.batch])

    def _knobs(self) -> dict[str, Tensor]:
        if not self.config.kl_warmup:
            return {}
        beta = min(1.0, self.step_count / self.config.kl_warmup)
        return {"beta": torch.tensor(beta, device=self.built.device)}

    def _lr_factor(self) -> float:
        done = self.step_count / self.total
        return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[self.config.schedule]

    def _log(self, means: dict[str, float], epoch: int, started: float) -> None:
        entry: dict[str, Any] = {"step": self.step_count, "epoch": epoch, **means, "seconds": time.monotonic() - started}
        if self.config.kl_warmup:
            entry["beta"] = min(1.0, self.step_count / self.config.kl_warmup)
        if not math.isfinite(means["loss"]):
            raise RunError(
                f"the loss became {means['loss']} between steps {self.step_count - self.config.log_every} and "
                f"{self.step_count}: use a smaller --lr, --clip-norm 10, or check the data for extreme values"
            )
        self.history.append(entry)
        if self.run is not None:
            self.run.log_metrics(**entry)

    def _end_of_epoch(self, epoch: int, progress: Progress) -> bool:
        """Validate, checkpoint; True to stop early."""
        config, last = self.config, self.step_count >= self.total
        stop = False
        split = None if self.dataset is None else self.dataset.valid
        if split is not None and len(split) and ((epoch + 1) % config.validate_every == 0 or last):
            value = validation_elbo(self.built, split, config.batch)
            self.history.append({"step": self.step_count, "epoch": epoch, "valid_elbo": value})
            progress.update(self.step_count, self.history[-1])
            if self.run is not None:
                self.run.log_metrics(**self.history[-1])
            stop = self._is_over(value, epoch)
        if self.run is not None and (epoch + 1) % config.checkpoint_every == 0 and not (stop or last):
            self._checkpoint()
        return stop

    def _is_over(self, value: float, epoch: int) -> bool:
        if self.config.patience is None:
            return False
        if self.best is None or value > self.best[0]:
            self.best = (value, epoch)
            self.best_state = {name: t.clone() for name, t in self.built.state_dict().items()}
        return epoch - self.best[1] >= self.config.patience

    def _keep_best(self) -> None:
        if self.best_state is not None:
            self.built.load_state_dict(self.best_state)

    def _checkpoint(self) -> None:
        assert self.run is not None
        tensors = {f"pair.{name}": t for name, t in self.built.state_dict().items()}
        tensors |= {f"estimator.{name}": t for name, t in self.estimator.state_dict().items()}
        if self.best_state is not None:
            tensors |= {f"best.{name}": t for name, t in self.best_state.items()}
        optimizers: dict[str, Any] = {}
        for name, optimizer in self.step.optimizers.items():
            flat, optimizers[name] = checkpoint.flatten_optimizer(optimizer.state_dict())
            tensors |= {f"optimizer.{name}.{key}": t for key, t in flat.items()}
        generators, rest = checkpoint.capture_generators()
        tensors |= {f"generator.{name}": t for name, t in generators.items()}
        state = {"step": self.step_count, "best": self.best, "optimizers": optimizers, "generators": rest}
        checkpoint.save(self.run.checkpoints, self.step_count, tensors, state)

    def resume(self, run: Run) -> None:
        """Go on where the run's last checkpoint that verifies left off."""
        if isinstance(self.step, PyroStep):
            raise UsageError("engine=pyro cannot resume: Pyro's optimizers keep their state to themselves; use engine=eager")
        self._same_run(run)
        last = checkpoint.latest(run.checkpoints)
        if last is None:
            raise RunError(f"run {run.path} has no checkpoint that verifies: train again without --resume")
        tensors, state = checkpoint.load(last)
        restore_parameters(self.built, tensors, str(last))
        self.estimator.load_state_dict(_part(tensors, "estimator."))
        self.best = tuple(state["best"]) if state["best"] else None
        self.best_state = _part(tensors, "best.") or None
        for name, optimizer in self.step.optimizers.items():
            flat = _part(tensors, f"optimizer.{name}.")
            optimizer.load_state_dict(checkpoint.unflatten_optimizer(flat, state["optimizers"][name]))
        checkpoint.restore_generators(_part(tensors, "generator."), state["generators"])
        self.step_count, self.run = int(state["step"]), run
        self.step.validated = True
        run.drop_metrics_after(self.step_count)
        self.history = run.metrics()

    def _same_run(self, run: Run) -> None:
        saved = dict(run.config)
        now = self.config.to_dict()
        free = {"epochs", "steps", "out", "progress", "device", "threads", "log_every", "checkpoint_every", "check",
                "eval_k", "eval_n", "data"}  # fmt: skip
        for name, value in now.items():
            if name not in free and saved.get(name) != value:
                raise RunError(f"run {run.path} has {name}={saved.get(name)!r}, not {value!r}: leave the option out to go on")
        if self.dataset is not None and saved.get("data_hash") != self.dataset.hash:
            raise RunError(f"run {run.path} was trained on other data: give the same data to go on")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


class _Window:
    """Means of the logged scalars since the last reading, summed on the device."""

    def __init__(self, device: torch.device | None):
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def read(self) -> dict[str, float]:
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


@torch.no_grad()
def validation_elbo(built: Built, split: Any, batch: int) -> float:
    """The mean elbo over a split with one draw per datum under a fixed seed, in nats per datum.

    The caller's random state is left as it was, so that validating never changes what is trained.
    """
    from ppvae.evaluation import mean_terms

    return mean_terms(built, split, seed=VALIDATION_SEED, rows=max(batch, 512))["elbo"]

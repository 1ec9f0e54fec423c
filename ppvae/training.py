"""The loop: data in, trained pair and history out."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae import checkpoint
from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.data import Dataset
from ppvae.errors import RunError, UsageError
from ppvae.estimators import ESTIMATORS, Estimator, PyroLoss
from ppvae.estimators import find as find_estimator
from ppvae.evaluation import mean_terms
from ppvae.linter import check as check_pair
from ppvae.pair import Pair
from ppvae.progress import Progress
from ppvae.registry import find, names, source_hash
from ppvae.runs import Run
from ppvae.state import capture_generators, flatten, restore_generators, unflatten
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
        config: a `TrainConfig`; none: that of the resumed run, else the defaults. `options` are fields of it,
            and win.
        save: keep a run folder under `config.out`.
        resume: a run folder (or its path) to go on with, bit-exactly, from its last checkpoint.

    The random state of the caller is left as it was.

    Raises:
        UsageError, PairError, DataError, RunError: each in one line that says the fix.
    """
    run = Run.open(resume, write=True) if isinstance(resume, str | Path) else resume
    if config is None:
        config = TrainConfig() if run is None else TrainConfig.from_run(run.config)
    config = dataclasses.replace(config, **_known(options))
    objective = find_estimator(config.estimator if estimator is None else estimator)
    config = dataclasses.replace(config, estimator=spelled(objective))
    if config.kl_warmup and not hasattr(objective, "beta"):
        raise UsageError(
            f"{config.estimator} has no beta that kl_warmup could raise: leave it out, or use elbo"
        )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    found, built, dataset = prepare(pair, data, config)
    if config.check:
        check_pair(found, dataset, built=built, seed=config.seed).raise_if_broken()
    materialize(built, dataset)
    objective.to(built.device)
    about = _about(pair, found, dataset, data)
    with _own_random_state(config.seed):
        loop = _Loop(found, built, dataset, objective, config)
        if run is not None:
            loop.resume(run, about)
        elif save:
            data_name = "none" if dataset is None else dataset.name
            saved = {**config.to_dict(), **about}
            loop.run = Run.create(config.out, found.name or "pair", data_name, config.estimator, saved)
        return loop.go()


def spelled(estimator: Estimator) -> str:
    """The text by which an estimator is found again; its class's name where it is one of the user's own."""
    if isinstance(estimator, PyroLoss):
        options: dict[str, Any] = {"particles": estimator.particles, **estimator.options}
        return ",".join(
            [
                f"pyro:{estimator.name}",
                *(f"{k}={v}" for k, v in options.items() if (k, v) != ("particles", 1)),
            ]
        )
    name = next((name for name, cls in ESTIMATORS.items() if type(estimator) is cls), None)
    if name is None:
        return type(estimator).__name__
    defaults = {key: p.default for key, p in inspect.signature(type(estimator)).parameters.items()}
    options = {key: getattr(estimator, key) for key in defaults if getattr(estimator, key) != defaults[key]}
    return name + ":" * bool(options) + ",".join(f"{key}={value}" for key, value in options.items())


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
def _own_random_state(seed: int) -> Iterator[None]:
    """Inside, all generators start from `seed`; afterwards they are where the caller left them."""
    before = capture_generators()
    pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        restore_generators(*before)


class _Loop:
    """One training run: everything that changes while it goes, and that a checkpoint holds."""

    def __init__(
        self, pair: Pair, built: Built, dataset: Dataset | None, estimator: Estimator, config: TrainConfig
    ):
        self.pair, self.built, self.estimator, self.config = pair, built, estimator, config
        self.dataset = dataset
        self.train = None if dataset is None else dataset.train.to(built.device or "cpu")
        rows = 1 if self.train is None else len(self.train)
        self.batch = min(config.batch, rows)
        self.steps_per_epoch = max(1, rows // self.batch)
        self.total = config.steps or self.steps_per_epoch * config.epochs
        has_valid = dataset is not None and dataset.valid is not None
        self.valid = (
            dataset.fixed("valid").to(built.device or "cpu") if dataset is not None and has_valid else None
        )
        self.run: Run | None = None
        self.step_count, self.seconds_before, self.stopped = 0, 0.0, False
        self.window = _Window()
        self.knobs: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, int] | None = None
        self.best_state: dict[str, Tensor] | None = None
        self.step: EagerStep | PyroStep = STEPS[config.engine](built, estimator, config)

    def go(self) -> Trained:
        built = self.built
        built.train()
        self.started, first = time.monotonic() - self.seconds_before, self.step_count
        try:
            with Progress(self.total, first, self.config.progress, label=self.pair.name) as progress:
                while self.step_count < self.total and not self.stopped:
                    self._epoch(self.step_count // self.steps_per_epoch, progress)
            if self.run is not None and self.step_count > first:
                self._checkpoint()
        finally:
            if self.run is not None:
                self.run.close()
        if self.best_state is not None:
            built.load_state_dict(self.best_state)
        built.eval()
        return Trained(self.pair, built, self.dataset, self.config, self.history, self.run, self.step_count)

    def _epoch(self, epoch: int, progress: Progress) -> None:
        """The rest of an epoch, or of the training; then validate, and keep a checkpoint."""
        for batch in self._batches(epoch):
            self.knobs = self._knobs()
            self.window.add(self.step(batch, self.knobs, self._lr_factor()))
            self.step_count += 1
            last = self.step_count == self.total
            if last or self.step_count % self.config.log_every == 0:
                self._log(epoch)
                progress.update(self.step_count, self.history[-1])
            if last:
                break
        self._validate(epoch, progress)
        going_on = self.step_count < self.total and not self.stopped
        if self.run is not None and going_on and (epoch + 1) % self.config.checkpoint_every == 0:
            self._checkpoint()

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
        risen = min(1.0, self.step_count / self.config.kl_warmup)
        return {"beta": torch.tensor(risen * float(self.estimator.beta), device=self.built.device)}  # type: ignore[arg-type]

    def _lr_factor(self) -> float:
        done = self.step_count / self.total
        return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[
            self.config.schedule
        ]

    def _log(self, epoch: int) -> None:
        means = self.window.means()
        self._refuse_nan(means["loss"])
        knobs = {name: float(value) for name, value in self.knobs.items()}
        self._record(
            {
                "step": self.step_count,
                "epoch": epoch,
                **means,
                **knobs,
                "seconds": time.monotonic() - self.started,
            }
        )
        if self.step_count % self.config.log_every == 0:
            self.window.clear()

    def _record(self, entry: dict[str, Any]) -> None:
        self.history.append(entry)
        if self.run is not None:
            self.run.log_metrics(**entry)

    def _refuse_nan(self, loss: float) -> None:
        if not math.isfinite(loss):
            first = self.step_count - self.window.count + 1
            raise RunError(
                f"the loss became {loss} between steps {first} and {self.step_count}: "
                "use a smaller --lr, --clip-norm 10, or check the data for extreme values"
            )

    def _validate(self, epoch: int, progress: Progress) -> None:
        """The validation elbo where it is due and at the end; `stopped` after `patience` without a better."""
        due = self._is_due({"step": self.step_count, "epoch": epoch, "valid_elbo": None})
        if self.valid is None or not (due or self.step_count == self.total):
            return
        value = validation_elbo(self.built, self.valid, self.config.batch)
        self._record({"step": self.step_count, "epoch": epoch, "valid_elbo": value})
        progress.update(self.step_count, self.history[-1])
        if self.config.patience is None or not due:
            return
        if self.best is None or not value <= self.best[0]:
            self.best = (value, epoch)
            self.best_state = {name: t.clone() for name, t in self.built.state_dict().items()}
        self.stopped = epoch - self.best[1] >= self.config.patience

    def _is_due(self, entry: dict[str, Any]) -> bool:
        """Whether a longer training would have this entry, too: the last step has more than that."""
        if "valid_elbo" in entry:
            ended = entry["step"] == (entry["epoch"] + 1) * self.steps_per_epoch
            return ended and (entry["epoch"] + 1) % self.config.validate_every == 0
        return entry["step"] % self.config.log_every == 0

    def _checkpoint(self) -> None:
        """Everything that going on needs; training ends with the `best.` tensors, if there are any."""
        assert self.run is not None
        if self.window.count:
            self._refuse_nan(self.window.means()["loss"])
        tensors = {f"pair.{name}": t for name, t in self.built.state_dict().items()}
        tensors |= {f"estimator.{name}": t for name, t in self.estimator.state_dict().items()}
        if self.best_state is not None:
            tensors |= {f"best.{name}": t for name, t in self.best_state.items()}
        optimizers: dict[str, Any] = {}
        for name, optimizer in self.step.optimizers.items():
            flat, optimizers[name] = flatten(optimizer.state_dict())
            tensors |= {f"optimizer.{name}.{key}": t for key, t in flat.items()}
        tensors |= {f"window.{name}": t for name, t in self.window.sums.items()}
        generators, rest = capture_generators()
        tensors |= {f"generator.{name}": t for name, t in generators.items()}
        state = {
            "step": self.step_count,
            "total": self.total,
            "stopped": self.stopped,
            "best": self.best,
            "window": self.window.count,
            "seconds": time.monotonic() - self.started,
            "optimizers": optimizers,
            "generators": rest,
        }
        checkpoint.save(self.run.checkpoints, self.step_count, tensors, state)

    def resume(self, run: Run, about: dict[str, Any]) -> None:
        """Go on where the run's last checkpoint that verifies left off."""
        if isinstance(self.step, PyroStep):
            raise UsageError(
                "engine=pyro cannot resume, Pyro's optimizers keep their state: use engine=eager"
            )
        self._same_run(run, about)
        last = checkpoint.latest(run.checkpoints)
        if last is None:
            raise RunError(f"run {run.path} has no checkpoint that verifies: train again without --resume")
        tensors, state = checkpoint.load(last)
        self._same_length(run, state)
        restore_parameters(self.built, tensors, str(last))
        self.estimator.load_state_dict(_part(tensors, "estimator."))
        self.best = tuple(state["best"]) if state["best"] else None
        self.best_state = {k: t.to(self.built.device) for k, t in _part(tensors, "best.").items()} or None
        for name, optimizer in self.step.optimizers.items():
            flat = _part(tensors, f"optimizer.{name}.")
            optimizer.load_state_dict(unflatten(flat, state["optimizers"][name]))
        self.window.sums = {k: t.to(self.built.device) for k, t in _part(tensors, "window.").items()}
        self.window.count = state["window"]
        restore_generators(_part(tensors, "generator."), state["generators"])
        self.step_count, self.seconds_before, self.run = int(state["step"]), state["seconds"], run
        self.step.validated = True
        self._trim_metrics(run)

    def _trim_metrics(self, run: Run) -> None:
        """Forget what comes after the checkpoint, and what was logged only because training ended there."""
        if self.step_count == self.total:  # it still ends there
            run.drop_metrics_after(self.step_count)
            self.history = run.metrics()
            return
        entries = [e for e in run.metrics() if e["step"] <= self.step_count]
        self.history = [e for e in entries if e["step"] < self.step_count or self._is_due(e)]
        run.drop_metrics_after(self.step_count - 1)
        for entry in self.history:
            if entry["step"] == self.step_count:
                run.log_metrics(**entry)

    def _same_length(self, run: Run, state: dict[str, Any]) -> None:
        if state["stopped"]:
            raise RunError(
                f"run {run.path} stopped early, after {self.config.patience} epochs without a better "
                "validation bound: start a new run with a larger --patience"
            )
        if self.total < state["step"]:
            raise UsageError(
                f"run {run.path} has done {state['step']} steps, more than {self.total}: "
                "give more --epochs or --steps"
            )
        if self.config.schedule != "constant" and state["total"] != self.total:
            raise RunError(
                f"run {run.path} has schedule={self.config.schedule} over {state['total']} steps, not "
                f"{self.total}: leave --epochs and --steps out to go on"
            )

    def _same_run(self, run: Run, about: dict[str, Any]) -> None:
        saved = dict(run.config)
        same_source = about["pair_hash"] is not None and saved.get("pair_hash") == about["pair_hash"]
        if saved.get("pair") != about["pair"] and not same_source:
            raise RunError(
                f"run {run.path} trains the pair {saved.get('pair')}, not {about['pair']}: "
                "give the same pair to go on"
            )
        if saved.get("pair_hash") != about["pair_hash"]:
            raise RunError(
                f"{about['pair']} has changed since the run {run.path} began: put the file back to go on"
            )
        # As YAML gives it back: a tuple is a list there.
        now = json.loads(json.dumps(self.config.to_dict(), default=str))
        free = {"epochs", "steps", "out", "progress", "device", "threads", "log_every", "checkpoint_every",
                "check", "eval_k", "eval_n", "data"}  # fmt: skip
        for name, value in now.items():
            if name not in free and saved.get(name) != value:
                raise RunError(
                    f"run {run.path} has {name}={saved.get(name)!r}, not {value!r}: "
                    "leave the option out to go on"
                )
        if self.dataset is not None and saved.get("data_hash") != self.dataset.hash:
            raise RunError(f"run {run.path} was trained on other data: give the same data to go on")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


class _Window:
    """Means of the logged scalars since the last line, summed on the device."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.count for name, total in self.sums.items()}


@torch.no_grad()
def validation_elbo(built: Built, split: Any, batch: int) -> float:
    """The mean elbo over a split with one draw per datum under a fixed seed, in nats per datum.

    The caller's random state is left as it was, so that validating never changes what is trained.
    """
    return mean_terms(built, split, seed=VALIDATION_SEED, rows=max(batch, 512))["elbo"]

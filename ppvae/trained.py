"""A trained pair: what `fit` returns and `load` reads back, with the verbs that one wants of it."""

from __future__ import annotations

import dataclasses
import inspect
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppvae import checkpoint
from ppvae.build import build
from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.data import Dataset, seeded
from ppvae.data import load as load_data
from ppvae.errors import PairError, PPVAEError, RunError, UsageError
from ppvae.evaluation import evaluate, evaluating
from ppvae.pair import Pair
from ppvae.registry import find, source_hash
from ppvae.runs import Run
from ppvae.tracing import sample_sites

SAMPLE_SEED = 30_000
"""Of the training data that `train_n` takes."""


@dataclass
class Trained:
    """A pair after training, with its data, its options and its history."""

    pair: Pair
    built: Built
    dataset: Dataset | None
    config: TrainConfig
    history: list[dict[str, Any]] = field(default_factory=list)
    """One dict per logged step: loss, elbo, rate, distortion in nats per datum."""
    run: Run | None = None
    step: int = 0
    account: str | None = None
    """Which engine trained it and why, where there was something to choose."""

    def evaluate(
        self, k: int = 1000, n: int = 1000, seed: int = 0, split: str = "test", **further: Any
    ) -> dict[str, Any]:
        """What `ppvae.evaluate` says of it: elbo, log p(x) with K = k over n data, rate, distortion, ...

        `further` are fields of `EvaluationConfig`, such as `calibration=True`.
        """
        if self.dataset is None:
            raise UsageError(
                f"pair {self.pair.name!r} has no data to evaluate on: its bound is the elbo of the last step"
            )
        return evaluate(self.built, self.dataset, k=k, n=n, seed=seed, split=split, **further)

    @torch.no_grad()
    def generate(self, n: int = 16, *, mean: bool = True, **conditions: Tensor) -> Tensor:
        """n draws of the first observed field: the mean of p(x | z) for z ~ p(z), or draws of x."""
        if not isinstance(n, int) or n < 1:
            raise UsageError(f"n={n!r}: draw 1 or more")
        return self._decode(self.built.run_model, {"n": n, **self._moved(conditions)}, mean)

    @torch.no_grad()
    def reconstruct(self, x: Tensor | None = None, *, mean: bool = True, **batch: Tensor) -> Tensor:
        """The first observed field from one draw of the guide: z ~ q(z | x), the mean of p(x | z)."""
        batch = self._moved({**batch, **({} if x is None else {self.pair.observed[0]: x})})
        with self._ready():
            latents = poutine.trace(self.built.run_guide).get_trace(**self.built.inputs(batch))
        given = {k: v for k, v in batch.items() if k not in self.pair.observed}
        rows = len(next(iter(batch.values())))
        return self._decode(poutine.replay(self.built.run_model, trace=latents), {**given, "n": rows}, mean)

    @torch.no_grad()
    def encode(self, x: Tensor | None = None, **batch: Tensor) -> dict[str, Tensor]:
        """The mean of q for each latent, given draws of its parents; a draw where q has no mean."""
        batch = self._moved({**batch, **({} if x is None else {self.pair.observed[0]: x})})
        with self._ready():
            trace = poutine.trace(self.built.run_guide).get_trace(**self.built.inputs(batch))
        return {name: _mean_of(site["fn"], site["value"]) for name, site in sample_sites(trace).items()}

    def _decode(self, model: Any, inputs: dict[str, Any], mean: bool) -> Tensor:
        if not self.pair.observed:
            raise PairError(
                "the pair has no observed field: read the draws off pyro.poutine.trace(model) instead"
            )
        name = self.pair.observed[0]
        with self._ready():
            site = poutine.trace(model).get_trace(**inputs).nodes[name]
        return _mean_of(site["fn"], site["value"]) if mean else site["value"]

    def _ready(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(self.built.in_eval_mode())
        stack.enter_context(self.built.local())
        stack.enter_context(pyro.validation_enabled(False))
        return stack

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Tensors on the pair's device and in its type; arrays become tensors."""
        device, dtype = self.built.device, self.built.dtype
        moved = {k: v if v is None else torch.as_tensor(v).to(device) for k, v in batch.items()}
        for name, value in moved.items():
            if value is not None and value.is_floating_point():
                if not bool(value.isfinite().all()):
                    raise UsageError(
                        f"{name} has values that are not finite: put 0 there, and pass mask=, True where "
                        "observed"
                    )
                moved[name] = value.to(dtype)
        return moved


def _mean_of(distribution: Any, value: Tensor) -> Tensor:
    try:
        mean = distribution.mean
    except (NotImplementedError, AttributeError):
        return value
    return value if bool(mean.isnan().all()) else mean  # torch's answer for a Categorical


def device_of(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises UsageError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"no device {name!r}: use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"no device {name!r} here, torch sees {count} GPUs: use --device cpu")
    return device


def materialize(built: Built, dataset: Dataset | None) -> None:
    """Score one batch, so that parameters made on first use (bare `pyro.param`) exist before any count."""
    batch = {} if dataset is None else dataset.train.batch(torch.arange(min(2, len(dataset.train))))
    with evaluating(built, seed=0):
        built.score(_on(batch, built.device))


def _on(batch: dict[str, Tensor], device: torch.device | None) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in batch.items()}


def prepare(pair: Pair | str, data: Any, config: TrainConfig) -> tuple[Pair, Built, Dataset | None]:
    """Find the pair, load its data, make its modules in the data's float type and put them on the device."""
    pair, device = find(pair), device_of(config.device)
    what = data if data is not None else (config.data or pair.data)
    dataset = None if what is None else load_data(what, binarization=config.binarization)
    if dataset is not None and len(dataset.train) == 0:
        raise UsageError(f"data set {dataset.name!r} has no training data: give it some rows")
    if dataset is not None and config.train_n is not None:
        dataset = _sampled(dataset, config.train_n)
    built = _sized(pair, dataset, config)
    built.to(device)
    return pair, built, dataset


def _sampled(dataset: Dataset, n: int) -> Dataset:
    """The data set with a sample of its training data: the same for every seed of training."""
    rows = len(dataset.train)
    if n > rows:
        raise UsageError(f"train_n={n} is more than the {rows} training data: use at most {rows}")
    train = dataset.train.subset(seeded.permutation(rows, SAMPLE_SEED)[:n])
    return dataclasses.replace(dataset, train=train)


def _sized(pair: Pair, dataset: Dataset | None, config: TrainConfig) -> Built:
    """`build`, which fails inside the constructors where a size is none: said in one line that names it."""
    _refuse_sizes(pair, config.sizes)
    try:
        return build(pair, dataset, seed=config.seed, **config.sizes)
    except PPVAEError:
        raise
    except Exception as error:
        if not config.sizes:
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in config.sizes.items())
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"the pair cannot be made with the sizes {given} ({reason}): give others") from error


def _refuse_sizes(pair: Pair, sizes: dict[str, Any]) -> None:
    """A number for a list, or a text for a number, as the constructors' defaults tell."""
    for part in (pair.model, pair.guide):
        known = inspect.signature(part).parameters if callable(part) else {}
        for name, value in sizes.items():
            default = known[name].default if name in known else None
            if isinstance(default, int | float) and not isinstance(value, int | float):
                raise UsageError(
                    f"the size {name}={value!r} is no number: give one, such as {name}={default}"
                )
            if isinstance(default, tuple | list) and not isinstance(value, tuple | list):
                wanted = str(list(default)).replace(" ", "")
                raise UsageError(f"the size {name}={value!r} is no list: give one, such as {name}={wanted}")


def load(
    run: str | Path, *, pair: str | Pair | None = None, data: Any = None, device: str = "auto"
) -> Trained:
    """The trained pair of a run folder, `load("runs/latest")`: its last checkpoint that verifies.

    Args:
        pair: needed again when the run was trained on a pair from a file or module of yours; nothing that a
            run folder names is imported.
        data: needed again when the run was trained on data passed from Python.

    Raises:
        RunError: no such run, no checkpoint that verifies, or a pair or data that must be given again.
    """
    opened = Run.open(run)
    saved = dict(opened.config)
    pair = _pair_of(opened, saved, pair)
    if saved.get("data_in_memory") and data is None:
        raise RunError(
            f"run {opened.path} was trained on data passed from Python: load it there, with data=..."
        )
    config = dataclasses.replace(TrainConfig.from_run(saved), device=device)
    data_hash = saved.get("data_hash")
    found, built, dataset = prepare(pair, data, config)
    if dataset is not None and data_hash and dataset.hash != data_hash:
        raise RunError(
            f"the data have changed since the run was trained (hash {dataset.hash[:12]}, was "
            f"{data_hash[:12]}): give the data that it was trained on"
        )
    materialize(built, dataset)
    last = checkpoint.latest(opened.checkpoints)
    if last is None:
        other = opened.newest_trained()
        hint = "" if other is None else f", or take {other}, the newest run beside it that has one"
        raise RunError(f"run {opened.path} has no checkpoint that verifies: train again{hint}")
    tensors, state = checkpoint.load(last)
    restore_parameters(built, tensors, str(last), prefix="best." if state.get("best") else "pair.")
    built.eval()
    return Trained(
        found, built, dataset, config, history=opened.metrics(), run=opened, step=int(state["step"])
    )


def _pair_of(run: Run, saved: dict[str, Any], given: str | Pair | None) -> str | Pair:
    """The pair to load a run with: by the name that the run has, or as it was given again."""
    name, digest = saved.get("pair"), saved.get("pair_hash")
    if not isinstance(name, str):
        raise RunError(f"{run.path / 'config.yaml'} names no pair: restore it, or train again")
    if given is None:
        if saved.get("pair_in_memory"):
            raise RunError(
                f"run {run.path} was trained on a Pair passed from Python: load it there, with pair=..."
            )
        if ":" in name or name.endswith(".py"):
            raise RunError(
                f"run {run.path} was trained on your own pair {name}: give it again, --pair {name}"
            )
        return name
    if isinstance(given, str) and digest and source_hash(given) not in (None, digest):
        raise RunError(f"{given} has changed since the run was trained: give the version that trained it")
    return given


def restore_parameters(built: Built, tensors: dict[str, Tensor], source: str, prefix: str = "pair.") -> None:
    """Copy a checkpoint's parameters and buffers in place. Raises RunError where names or shapes differ."""
    own = built.state_dict()
    given = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    for name, value in own.items():
        if name not in given:
            raise RunError(
                f"{source} has no {name!r}, which the pair has: use the pair and sizes it was trained with"
            )
        if given[name].shape != value.shape:
            raise RunError(
                f"{source}: {name!r} has shape {tuple(given[name].shape)}, the pair's is "
                f"{tuple(value.shape)}: use the sizes it was trained with"
            )
    if extra := sorted(set(given) - set(own)):
        raise RunError(
            f"{source} has {extra[0]!r}, which the pair lacks: use the pair and sizes it was trained with"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(given[name])

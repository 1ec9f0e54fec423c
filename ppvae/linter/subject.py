"""What is being checked: a built pair, its data, and the findings so far; and how to leave it untouched."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppvae.built import Built
from ppvae.errors import DataError
from ppvae.linter import places
from ppvae.linter.places import NOWHERE, Place
from ppvae.linter.record import Run, observe
from ppvae.linter.report import Finding, Level, Report
from ppvae.pair import Pair
from ppvae.scoring import score
from ppvae.terms import Terms

POOL = 64
"""How many data are looked at; runs use a handful of them."""


@dataclass
class Subject:
    """A pair under the linter. The stages fill it in one after another and add findings."""

    pair: Pair
    report: Report
    seed: int = 0
    data: Any = None
    built: Built = None  # type: ignore[assignment]
    num_data: int | None = None
    """N where it is known: a batch alone does not tell it."""
    pool: dict[str, Tensor] = field(default_factory=dict)
    """Up to `POOL` data."""
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """A few of them, the fields that the pair takes."""
    guide: Run = None  # type: ignore[assignment]
    model: Run = None  # type: ignore[assignment]
    """The runs on `inputs`: the guide, and the model replayed at the guide's draws."""

    def add(
        self,
        level: Level,
        code: str,
        message: str,
        place: Place = NOWHERE,
        fix: str = "",
        site: str | None = None,
    ) -> None:
        """Add a finding, unless the same thing was said before."""
        if place.file is None:
            place = places.of_pair(self.pair)
        finding = Finding(level, code, message, place.file, place.line, fix, site)
        said = [(f.code, f.site, f.line) for f in self.report.findings]
        if site is None or (code, site, place.line) not in said:
            self.report.findings.append(finding)

    def error(
        self, code: str, message: str, place: Place = NOWHERE, fix: str = "", site: str | None = None
    ) -> None:
        self.add("error", code, message, place, fix, site)

    def warn(
        self, code: str, message: str, place: Place = NOWHERE, fix: str = "", site: str | None = None
    ) -> None:
        self.add("warning", code, message, place, fix, site)

    @property
    def rows(self) -> int:
        return rows(self.inputs)

    @property
    def latents(self) -> dict[str, Tensor]:
        """The guide's draws that are not summed out."""
        return {n: v for n, v in self.guide.latents.items() if n not in self.built.enumerated}

    def part(self, role: str) -> Any:
        """The built model or guide, for its place in the code."""
        return self.built.model if role == "model" else self.built.guide

    def run(self, role: str, inputs: Mapping[str, Any], **options: Any) -> Run:
        """Run the model or the guide; a model that cannot draw its latents runs at the guide's draws."""
        fn = self.built.run_model if role == "model" else self.built.run_guide
        options.setdefault("seed", self.seed)
        run = observe(self.built, role, lambda: fn(**inputs), **options)
        if role == "model" and "latents" not in options and isinstance(run.error, NotImplementedError):
            guide = self.run("guide", inputs, **options)  # an improper prior, say
            if guide.error is None:
                run = self.run("model", inputs, latents=guide.latents, **options)
        return run

    def both(self, inputs: Mapping[str, Any], particles: int = 1, seed: int | None = None) -> tuple[Run, Run]:
        """Run the guide, and replay the model at its draws."""
        options: dict[str, Any] = {"particles": particles, "seed": self.seed if seed is None else seed}
        guide = self.run("guide", inputs, **options)
        if guide.error is not None:
            return guide, Run("model", [])
        return guide, self.run("model", inputs, latents=guide.latents, **options)

    def score(
        self,
        inputs: Mapping[str, Any],
        latents: Mapping[str, Tensor] | None = None,
        particles: int = 1,
        seed: int | None = None,
        vectorize: bool = True,
    ) -> tuple[Terms | None, Run]:
        """The terms, with the latents given or drawn; None where that fails."""
        built = self.built

        def terms() -> Terms:
            return score(
                built.run_model,
                built.run_guide,
                inputs,
                particles=particles,
                plates=self.pair.plates,
                num_data=built.num_data,
                enumerated=built.enumerated,
                vectorize=vectorize,
            )

        run = observe(built, "score", terms, latents=latents, seed=self.seed if seed is None else seed)
        return (run.result if run.error is None else None), run


def rows(fields: Mapping[str, Any]) -> int:
    """How many data a batch has; 0 for none."""
    return next((len(v) for v in fields.values() if isinstance(v, Tensor) and v.dim() > 0), 0)


def take(fields: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The first `count` data."""
    return {n: v[:count] if isinstance(v, Tensor) and v.dim() > 0 else v for n, v in fields.items()}


class Arrays:
    """A plain dict of tensors, seen as data: sizes are read off it, batches are taken from it."""

    def __init__(self, fields: Mapping[str, Any]):
        self.fields = {name: torch.as_tensor(value) for name, value in fields.items()}
        self.train = self
        self.shapes = {name: tuple(value.shape[1:]) for name, value in self.fields.items()}
        self.num_data = rows(self.fields)

    def __len__(self) -> int:
        return self.num_data

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.fields.items()}

    def num_classes(self, name: str) -> int:
        return 1 + int(self.fields[name].max())

    def mean(self, name: str) -> Tensor:
        return self.fields[name].float().mean(0)


def as_data(pair: Pair, data: Any, batch: Any) -> Any:
    """The data to check on: what is given, else the batch, else the pair's own; None where there are none."""
    if data is None:
        data = batch if batch is not None else pair.data
    if isinstance(data, str):
        from ppvae.data import load

        data = load(data)
    return Arrays(data) if isinstance(data, Mapping) else data


def pool(data: Any, batch: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Up to `POOL` data, from all over the training set."""
    if batch is not None:
        return take({name: torch.as_tensor(value) for name, value in batch.items()}, POOL)
    if data is None:
        return {}
    if not hasattr(data, "train"):
        raise DataError(f"data is a {type(data).__name__}: pass a dict of tensors or a ppvae data set")
    count = len(data.train)
    if count == 0:
        raise DataError("the data are empty: give at least one row per field")
    return data.train.batch(torch.linspace(0, count - 1, min(count, POOL)).long())


@contextlib.contextmanager
def untouched(*roots: Any) -> Iterator[None]:
    """Put back, at the end, what a run may change: random states, parameters, buffers, gradients, flags."""
    python, numpy = random.getstate(), np.random.get_state()
    modules = {id(m): m for root in roots if isinstance(root, nn.Module) for m in root.modules()}.values()
    undo = [_undo(module) for module in modules]
    undo += [_undo_local(root) for root in roots if isinstance(root, Built)]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for restore in undo:
            restore()
        random.setstate(python)
        np.random.set_state(numpy)


_PLAIN = (bool, int, float, str, type(None), Tensor)


def _undo(module: nn.Module) -> Callable[[], None]:
    """What restores this one module, not its children."""
    kept = {k: v for k, v in vars(module).items() if isinstance(v, _PLAIN)}
    parameters = {k: _tensor(v) for k, v in module._parameters.items()}
    buffers = {k: _tensor(v) for k, v in module._buffers.items()}
    loose = {k: _tensor(v) for k, v in kept.items() if isinstance(v, Tensor)}

    def restore() -> None:
        for store, saved in ((module._parameters, parameters), (module._buffers, buffers)):
            for name in set(store) - set(saved):  # a bare pyro.param that the check made
                del store[name]
                getattr(module, "_keys", {}).pop(name, None)
            store.update({k: _restored(s) for k, s in saved.items()})  # type: ignore[arg-type]
        for name in [k for k, v in vars(module).items() if isinstance(v, _PLAIN) and k not in kept]:
            delattr(module, name)
        for name, value in kept.items():
            object.__setattr__(module, name, _restored(loose[name]) if name in loose else value)

    return restore


def _undo_local(built: Built) -> Callable[[], None]:
    """Bare parameters that the check made are made again by the first run after it."""
    local = built._local
    passed, constraints = set(local.passed), dict(local.constraints)

    def restore() -> None:
        local.passed, local.constraints = passed, constraints

    return restore


def _tensor(tensor: Tensor | None) -> SimpleNamespace | None:
    if tensor is None:
        return None
    copy = tensor.detach().clone()
    grad = tensor.grad if tensor.is_leaf else None
    return SimpleNamespace(
        tensor=tensor,
        copy=copy,
        grad=grad,
        grad_copy=None if grad is None else grad.detach().clone(),
        needs=tensor.requires_grad,
    )


def _restored(saved: SimpleNamespace | None) -> Any:
    if saved is None:
        return None
    tensor = saved.tensor
    with torch.no_grad():
        if not torch.equal(tensor, saved.copy):
            tensor.detach().copy_(saved.copy)
        if tensor.is_leaf:
            if saved.grad is not None and not torch.equal(saved.grad, saved.grad_copy):
                saved.grad.copy_(saved.grad_copy)
            tensor.grad = saved.grad
            tensor.requires_grad_(saved.needs)
    return tensor

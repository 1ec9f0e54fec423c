"""Run a model or a guide under the linter's eye: every statement with the line that it stands on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.linter import places
from ppvae.linter.places import NOWHERE, Place
from ppvae.tracing import DATA_PLATE, PARTICLE_PLATE, is_factor


@dataclass
class Record:
    """One statement; what follows `place` is None until the statement has run."""

    role: str
    kind: str
    """sample, deterministic, factor, plate, param, penalty."""
    name: str
    place: Place
    message: Mapping[str, Any]
    bare: bool = False
    """A `pyro.param` of its own, not the parameter of a PyroModule."""
    fn: Any = None
    value: Any = None
    observed: bool = False
    frames: tuple[Any, ...] = ()
    scale: Any = 1.0
    mask: Any = None
    infer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plates(self) -> list[Any]:
        """The vectorized plates around the statement, the particles' excepted."""
        return [f for f in self.frames if f.vectorized and f.name != PARTICLE_PLATE]

    @property
    def drawn(self) -> int:
        """Of a plate: how many of its indices are drawn."""
        fn = self.message["fn"]
        if isinstance(self.value, Tensor):
            return len(self.value)
        return fn.size if fn.subsample_size is None else fn.subsample_size

    @property
    def in_data(self) -> bool:
        return any(frame.name == DATA_PLATE for frame in self.frames)


class Recorder(Messenger):
    """Keeps a `Record` of each statement, also of the one that fails."""

    def __init__(self, role: str):
        super().__init__()
        self.role = role
        self.records: list[Record] = []
        self._open: dict[int, Record] = {}

    def _pyro_sample(self, msg) -> None:
        kind = "sample"
        if site_is_subsample(msg):
            kind = "plate"
        elif msg["infer"].get("_deterministic"):
            kind = "deterministic"
        elif is_factor(msg):
            kind = "factor"
        self._begin(msg, kind)

    def _pyro_param(self, msg) -> None:
        self._begin(msg, "param", bare=msg["fn"] == pyro.get_param_store().get_param)

    def _pyro_penalty(self, msg) -> None:
        self._begin(msg, "penalty")

    def _begin(self, msg, kind: str, bare: bool = False) -> None:
        place = places.of_caller(observe.__code__)
        record = Record(self.role, kind, msg["name"], place, msg, bare)
        record.fn, record.frames = msg["fn"], tuple(msg["cond_indep_stack"])
        self._open[id(msg)] = record
        self.records.append(record)

    def _pyro_post_sample(self, msg) -> None:
        record = self._open.pop(id(msg), None)
        if record is None:
            return
        record.fn, record.value, record.observed = msg["fn"], msg["value"], msg["is_observed"]
        record.frames = tuple(msg["cond_indep_stack"])
        record.scale, record.mask, record.infer = msg["scale"], msg["mask"], dict(msg["infer"])

    def _pyro_post_param(self, msg) -> None:
        record = self._open.pop(id(msg), None)
        if record is not None:
            record.value = msg["value"]

    def _pyro_post_penalty(self, msg) -> None:
        record = self._open.pop(id(msg), None)
        if record is not None:
            record.value = msg["args"]


class Replay(Messenger):
    """Gives the named latents these values."""

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.values and not msg["is_observed"] and not site_is_subsample(msg):
            msg["value"], msg["done"] = self.values[msg["name"]], True


@dataclass
class Run:
    """What came of running a model or a guide once."""

    role: str
    records: list[Record]
    error: Exception | None = None
    result: Any = None

    def of(self, *kinds: str) -> list[Record]:
        return [record for record in self.records if record.kind in kinds]

    @property
    def sites(self) -> dict[str, Record]:
        """The sample statements that ran to their end, by name."""
        return {r.name: r for r in self.of("sample") if r.value is not None}

    @property
    def latents(self) -> dict[str, Tensor]:
        return {name: site.value for name, site in self.sites.items() if not site.observed}

    @property
    def place(self) -> Place:
        """Where the run failed."""
        return places.of_exception(self.error, observe.__code__) if self.error is not None else NOWHERE


def observe(
    built: Any,
    role: str,
    fn: Callable[[], Any],
    latents: Mapping[str, Tensor] | None = None,
    particles: int = 1,
    seed: int = 0,
) -> Run:
    """Run `fn()` of a built pair with seeded draws; an exception is kept, never raised."""
    pyro.set_rng_seed(seed)
    recorder, run = Recorder(role), Run(role, [])
    run.records = recorder.records
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(built.local())
            stack.enter_context(Replay(latents or {}))
            stack.enter_context(recorder)
            if particles > 1:
                stack.enter_context(pyro.plate(PARTICLE_PLATE, particles, dim=-1 - built.pair.plates))
            run.result = fn()
    except Exception as error:
        run.error = error
    # The particles' own plate is ours, not the user's.
    recorder.records[:] = [r for r in recorder.records if r.name != PARTICLE_PLATE]
    return run

"""What compiling costs and saves, measured on this machine and remembered beside the compiler's cache."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx

SAVES = 0.2
"""The share of an eager step that a compiled one saves, where nothing is known yet."""
SAVES_RECORDED = 0.8
"""The same on a GPU, where an eager step is bound by its launches and a recorded one is a single launch."""
TRACING = 3.0
"""Seconds for tracing and for holding the graph against the eager step."""
AGAIN = 0.2
"""The share of a first compilation that the next one takes, which finds it in the compiler's cache: a guess,
until there was a next one."""


@dataclass(frozen=True)
class Cost:
    """In seconds; a step's are medians, None where they were not compared."""

    compiling: float
    """What the next compilation takes."""
    eager: float | None = None
    graph: float | None = None

    @property
    def saves(self) -> float | None:
        """The share of an eager step."""
        return None if self.eager is None or self.graph is None else 1.0 - self.graph / self.eager


def first_compilation(nodes: int) -> float:
    """A guess, in seconds, for a graph that this machine never compiled: small ones take 8 s, each operation
    more 0.04 s (a recurrent net of 2,000: 90 s)."""
    return 8.0 + 0.04 * nodes


def key_of(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> str:
    """The same for the same operations on inputs of the same kind, with the same torch and threads."""
    kinds = [(tuple(t.shape), str(t.dtype), str(t.device)) for t in inputs]
    text = json.dumps([graph.code, kinds, torch.__version__, torch.get_num_threads()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def recall(key: str) -> Cost | None:
    """What was remembered of a graph that has been compiled here; None where there is nothing."""
    try:
        return Cost(**json.loads((folder() / f"{key}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember_compiling(key: str, seconds: float) -> None:
    """It took so long: the next one, if this was the first, will be quicker."""
    known = recall(key)
    remember(key, Cost(AGAIN * seconds) if known is None else replace(known, compiling=seconds))


def remember_steps(key: str, eager: float, graph: float) -> None:
    """A step took so long, eager and compiled."""
    known = recall(key)
    if known is not None:
        remember(key, replace(known, eager=eager, graph=graph))


def remember(key: str, cost: Cost) -> None:
    """Keep it for the next run."""
    write(folder() / f"{key}.json", asdict(cost))


def write(file: Path, value: object) -> None:
    """What JSON can hold, in one rename; where that cannot be written, nothing is lost but a better guess."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as made:
            json.dump(value, made, indent=0)
        os.replace(made.name, file)
    except OSError:
        pass


def folder() -> Path:
    """Where this machine remembers, beside the compiler's cache."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()) / "ppvae"

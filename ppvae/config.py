"""The options of a training run, in one place: `fit`'s, the command line's and the recipe's.

This file imports neither torch nor Pyro, so that `ppvae --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from ppvae.errors import UsageError, nearest


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a pair is trained. Defaults train the MLP VAE on digits on two CPU cores in minutes."""

    data: str | None = None
    """Name of a data set, or path of an .npz file or a folder of pictures; none: the pair's own."""
    binarization: Literal["none", "static", "dynamic", "threshold"] | None = None
    """How grey pixels become bits: drawn once, anew for each batch, or cut at 127; none: as the data are."""
    train_n: int | None = None
    """Train on so many of the training data, always the same sample of them; none: on all."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments of the pair's model and guide, such as latent=20 hidden=400."""
    estimator: str = "elbo"
    """What is maximized: elbo, analytic_kl, iwae:particles=50, pyro:NAME; options follow a colon."""
    engine: Literal["auto", "eager", "graph", "cudagraph", "pyro"] = "auto"
    """eager: plain torch; graph: the whole step traced and compiled; cudagraph: and recorded on a GPU; auto:
    what pays; pyro: the literal pyro.infer.SVI with its Trace_ELBO."""
    epochs: int = 50
    """Passes over the training data."""
    steps: int | None = None
    """Train this many steps, whatever `epochs` says."""
    batch: int = 128
    """Data in a batch; the last, shorter batch of an epoch is left out."""
    optimizer: Literal["adam", "adamw", "adamax", "rmsprop", "sgd"] = "adam"
    """A torch optimizer, one for each parameter group."""
    lr: float = 1e-3
    """Learning rate."""
    lr_groups: dict[str, float] = field(default_factory=dict)
    """Learning rates of single parameter groups, such as guide=3e-4."""
    weight_decay: float = 0.0
    """Weight decay of the optimizer."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls over the run: not, to 0 in a line, or to 0 as a half cosine."""
    kl_warmup: int = 0
    """Steps over which the weight beta of the rate rises from 0 to 1."""
    clip_norm: float | None = None
    """Largest global norm of the gradient of a parameter group."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradients are not finite moves nothing; then stop and say why, or go on."""
    patience: int | None = None
    """Stop after this many epochs without a better validation bound, and keep the best parameters."""
    validate_every: int = 1
    """Epochs between two validation bounds."""
    seed: int = 0
    """Seed of the initial parameters, the order of the data and the draws."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of the products in nets; parameters, log-probabilities and sums are always float32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""
    threads: int | None = None
    """CPU threads of torch; none: torch's own choice."""
    check: bool = True
    """Check the pair on a real batch before training."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 10
    """Epochs between two checkpoints; the last epoch always makes one."""
    out: Path = Path("runs")
    """Folder that holds the run folders."""
    progress: bool = True
    """Show a progress bar where there is a terminal."""
    eval_k: int = 1000
    """Importance samples per datum for the test log-likelihood after training; 0: no evaluation."""
    eval_n: int = 1000
    """Test data for that estimate, a shuffled sample; the test elbo uses all."""

    def __post_init__(self):
        for name, kinds in kinds_of(type(self)).items():
            object.__setattr__(self, name, fitting(name, getattr(self, name), kinds))
        rates = {k: fitting(f"lr_groups: {k}", v, (float,)) for k, v in self.lr_groups.items()}
        object.__setattr__(self, "lr_groups", rates)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                close = nearest(value, choices) or ":"
                raise UsageError(f"no {name} {value!r}{close} There are: {', '.join(choices)}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name}={value} is too small: use at least {least}")
        positive = {"lr": self.lr, "clip_norm": self.clip_norm}
        positive |= {f"lr_groups: {group}": rate for group, rate in self.lr_groups.items()}
        for name, value in positive.items():
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name}={value} is no positive number: use one such as 1e-3")
        if self.seed >= 2**32:
            raise UsageError(f"seed={self.seed} is too large: use one below {2**32}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Raises UsageError for an unknown option, with the nearest one."""
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                close = nearest(name, known) if isinstance(name, str) else ""
                raise UsageError(f"no option {name!r}{close or ':'} There are: {', '.join(sorted(known))}")
        return cls(**values)

    @classmethod
    def from_run(cls, saved: dict[str, Any]) -> TrainConfig:
        """The options in a run's config.yaml, which records more than those."""
        return cls.from_dict({name: value for name, value in saved.items() if name not in RECORDED})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}


RECORDED = ("pair", "pair_hash", "pair_in_memory", "data_name", "data_hash", "data_in_memory")
"""What a run's config.yaml says beside the options."""

Kinds = tuple[Any, ...]


@cache
def kinds_of(cls: type) -> dict[str, Kinds]:
    """The types that each option may have, as its annotation says."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        origins = [typing.get_origin(part) or part for part in (typing.get_args(hint) if union else [hint])]
        found[name] = tuple(str if origin is Literal else origin for origin in origins)
    return found


def fitting(name: str, value: Any, kinds: Kinds) -> Any:
    """The value as one of its kinds. YAML reads 1e-3 as a text, and numpy has numbers of its own."""
    if float in kinds and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise UsageError(f"{name}={value!r} is no number: use one such as 1e-3") from None
    if isinstance(value, Integral) and not isinstance(value, bool) and int in kinds:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool) and float in kinds:
        return float(value)
    if isinstance(value, str) and Path in kinds:
        return Path(value)
    if isinstance(value, Path) and str in kinds:
        return str(value)
    if isinstance(value, Mapping) and dict in kinds:
        return dict(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = {bool: "true or false", int: "a whole number", float: "a number", dict: "names with values"}
        said = dict.fromkeys(words.get(kind, "a text") for kind in kinds if kind is not type(None))
        raise UsageError(f"{name}={value!r} does not fit: give {' or '.join(said)}")
    return value


_LEAST = {
    "seed": 0, "epochs": 1, "steps": 1, "batch": 1, "kl_warmup": 0, "patience": 1, "validate_every": 1,
    "threads": 1, "train_n": 1, "log_every": 1, "checkpoint_every": 1, "eval_k": 0, "eval_n": 1,
    "weight_decay": 0,
}  # fmt: skip
_CHOICES = {
    "binarization": ("none", "static", "dynamic", "threshold"),
    "engine": ("auto", "eager", "graph", "cudagraph", "pyro"),
    "on_nonfinite": ("stop", "skip"),
    "optimizer": ("adam", "adamw", "adamax", "rmsprop", "sgd"),
    "precision": ("float32", "tf32", "bf16"),
    "schedule": ("constant", "linear", "cosine"),
}

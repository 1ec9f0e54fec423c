"""What every loader returns: a `Dataset` of up to three `Split`s, stored compactly.

A field is a tensor whose first dimension is the datum: `x` is observed, `y` holds labels, `mask` says
which entries of x are observed (True) and which are missing (False, and 0 in x). Pictures have the
event shape (C, H, W) and values in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor

from ppvae.data import seeded
from ppvae.data.fingerprint import fingerprint
from ppvae.errors import DataError, UsageError

Binarization = Literal["none", "static", "dynamic", "threshold"]
MODES: tuple[str, ...] = get_args(Binarization)
SPLITS = ("train", "valid", "test")


class Rows(Protocol):
    """Row numbers, of which slices are taken."""

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """N data as fields of shape (N, *event_shape). Do not write into the tensors: hashes are cached."""

    fields: dict[str, Tensor]
    steps: Mapping[str, int] = field(default_factory=dict)
    """The fields that are stored in whole steps of [0, 1], as uint8: value = stored / steps. 255 for
    bytes, 1 for bits, 16 for Digits8x8."""
    dynamic: bool = False
    """Whether x is a probability of which every batch draws bits afresh."""

    held: ClassVar[bool] = True
    """Whether the data are in memory, so that `batch` can be part of a traced step."""

    def __post_init__(self) -> None:
        lengths = {name: len(value) for name, value in self.fields.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(
                f"fields of different lengths: {lengths}; give every field one row per datum"
                if lengths
                else "a split without fields; give it at least x"
            )

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name} {tuple(value.shape[1:])}" for name, value in self.fields.items())
        return f"Split({len(self)} x [{fields}]{', dynamic' if self.dynamic else ''})"

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The data at `index`, int64 of shape (B,): fields of shape (B, *event_shape) as a model takes them.

        Stored steps become float32 in [0, 1], integers int64; floats and bool stay. A dynamic x is
        drawn here, x ~ Bernoulli(stored / steps), from `generator` (on the fields' device) or the
        default one. Nothing waits for the device, so a batch can be part of a CUDA graph; an index out
        of range is therefore an IndexError on the CPU only.
        """
        rows = self.subset(index).fields
        batch = {name: self._decode(name, value) for name, value in rows.items()}
        if self.dynamic:
            batch["x"] = torch.bernoulli(batch["x"], generator=generator)
        return batch

    def _decode(self, name: str, stored: Tensor) -> Tensor:
        if name in self.steps:
            # Divided by a tensor, not a number, which a GPU would turn into a multiplication by the
            # rounded inverse: n / 255 is then correctly rounded, and equal, everywhere.
            value = stored.to(torch.float32)
            return value if self.steps[name] == 1 else value / value.new_full((), self.steps[name])
        if stored.is_floating_point() or stored.dtype == torch.bool:
            return stored
        return stored.to(torch.int64)

    def fixed(self, seed: int | Sequence[int]) -> Split:
        """One draw of a dynamic x, stored as bits: what a bound is evaluated on. Else the split itself.

        The draw depends on a datum's position, so take subsets after it, not before.
        """
        if not self.dynamic:
            return self
        bits = seeded.bernoulli(self.fields["x"], seed, self.steps.get("x", 1))
        return Split({**self.fields, "x": bits}, {**self.steps, "x": 1})

    def order(self, seed: int, epoch: int) -> Rows:
        """The data in the order of an epoch: what slices of it index, on the data's device."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return torch.randperm(len(self), generator=generator).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the fields live."""
        return next(iter(self.fields.values())).device

    def mean(self, name: str) -> Tensor:
        """The mean of a field over the data, of its event shape, as `batch` would scale it."""
        stored = self.fields[name]
        kept = stored.dtype if stored.is_floating_point() else torch.float32
        # float64 inside: a float32 sum over 60,000 data loses digits.
        return (stored.sum(0, dtype=torch.float64) / (len(self) * self.steps.get(name, 1))).to(kept)

    def to(self, device: torch.device | str) -> Split:
        """The same data on `device`."""
        return replace(self, fields={name: value.to(device) for name, value in self.fields.items()})

    def subset(self, index: Tensor) -> Split:
        """The data at `index`, integers of shape (B,), in that order and still compact."""
        index = index.to(next(iter(self.fields.values())).device, non_blocking=True)
        rows = {name: value.index_select(0, index) for name, value in self.fields.items()}
        return replace(self, fields=rows)

    def shuffled(self, seed: int | Sequence[int]) -> Split:
        """The same data in the order of `seed`."""
        return self.subset(seeded.permutation(len(self), seed))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Dataset:
    """Data in up to three splits of the same fields, with what a run has to record about them."""

    name: str
    train: Split
    valid: Split | None = None
    test: Split | None = None
    binarization: Binarization = "none"
    """How x became bits: drawn once ("static"), in every batch ("dynamic"), x > 1/2 ("threshold")."""
    binarization_seed: int | None = None
    """Seed of the static draw, or of the fixed draws by which a dynamic set is evaluated."""
    description: str = ""
    source: str = ""
    licence: str = ""
    classes: tuple[str, ...] = ()
    """What the labels 0, 1, ... of y mean, where known."""
    truth: Mapping[str, Any] | None = None
    """The parameters of the law that synthetic data were drawn from."""

    def __post_init__(self) -> None:
        for name, split in self.splits.items():
            shapes = {key: tuple(value.shape[1:]) for key, value in split.fields.items()}
            if shapes != self.shapes:
                raise DataError(
                    f"the {name} split has the event shapes {shapes}, train {self.shapes}; make them equal"
                )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        return f"Dataset({self.name!r}: {sizes}; {self.shapes}; binarization {self.binarization!r})"

    @property
    def splits(self) -> dict[str, Split]:
        """The splits there are, by name: train, valid, test."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Event shape of each field: {"x": (1, 28, 28), "y": ()}."""
        return {name: tuple(value.shape[1:]) for name, value in self.train.fields.items()}

    @property
    def num_data(self) -> int:
        """N, the number of training data: what local terms are scaled to."""
        return len(self.train)

    @property
    def levels(self) -> int | None:
        """How many values an entry of x can take: 256 for bytes, 2 for bits, None if continuous."""
        if self.binarization != "none":
            return 2
        steps = self.train.steps.get("x")
        return None if steps is None else steps + 1

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex over fields, shapes, types and bytes of all splits, and the binarization."""
        return fingerprint(self.splits, self.binarization, self.binarization_seed)

    def num_classes(self, field: str = "y") -> int:
        """How many values the integer `field` takes: the named classes, or its largest value plus one.

        UsageError where there is no such field; DataError where it holds no whole numbers.
        """
        if field not in self.shapes:
            raise UsageError(f"{self.name} has no field {field!r}; it has {', '.join(self.shapes)}")
        if field == "y" and self.classes:
            return len(self.classes)
        if not self.train.held:
            raise DataError(f"{self.name} is read shard by shard; give {field}_classes=N among the sizes")
        values = [split.fields[field] for split in self.splits.values()]
        if field in self.train.steps or values[0].is_floating_point() or values[0].dtype == torch.bool:
            raise DataError(f"{field} of {self.name} has no classes; give whole numbers 0, 1, ... instead")
        return 1 + max(int(value.max()) for value in values)

    def fixed(self, split: str) -> Split:
        """The split to report numbers on: for a dynamic set always the same draw, by `binarization_seed`."""
        if split not in self.splits:
            raise UsageError(f"{self.name} has no {split} split; it has {', '.join(self.splits)}")
        # A seed per split, so that no test picture meets the uniforms of a training picture. It starts at
        # 1 because numpy takes (seed, 0) and seed for the same, and seed has ordered the rows.
        return self.splits[split].fixed((self.binarization_seed or 0, 1 + SPLITS.index(split)))

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on `device`; the hash does not depend on it."""
        return replace(self, **{name: split.to(device) for name, split in self.splits.items()})

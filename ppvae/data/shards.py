"""Data that do not fit into memory: a folder of `.npz` shards, of which a few are in memory at a time.

    folder/{anything.npz, ...}          the shards of the training data, in the order of their names
    folder/{valid.npz, test.npz}        held-out data, if there are any: loaded whole

An epoch goes through the shards in a shuffled order, `WINDOW` of them at a time, whose rows are shuffled
among each other. The order is a function of seed and epoch, so that a resumed run repeats it from any step,
on any number of processes, and reads nothing of what it leaves out. A process that opens a shard waits for
it; each of several opens all of them. A row meets only the others of its window in a batch: where the files
have an order of their own, such as by class, shuffle them once.
"""

from __future__ import annotations

import dataclasses
import itertools
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppvae.data import seeded
from ppvae.data.arrays import from_parts
from ppvae.data.dataset import Dataset, Split
from ppvae.data.npz import BROKEN, read_arrays
from ppvae.data.splits import by_split
from ppvae.errors import DataError

WINDOW = 2
"""Shards whose rows are shuffled among each other, and that are in memory at once."""
HELD_OUT = ("valid.npz", "test.npz")


@dataclass(frozen=True, eq=False, repr=False)
class Shards(Split):
    """The rows of several files, numbered through; `fields` are those of the first file."""

    files: tuple[Path, ...] = ()
    sizes: tuple[int, ...] = ()
    """Rows in each file."""
    place: str | torch.device = "cpu"
    """Where batches go."""
    drawn: tuple[int, ...] | None = None
    """Seed of the bits that a grey x has become; None: it is as the files have it."""
    kept: dict[int, Split] = field(default_factory=dict)
    """What is in memory, by the number of the file; the oldest first."""

    held = False

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def device(self) -> torch.device:
        return torch.device(self.place)

    @property
    def digest(self) -> list[tuple[str, int, list[int]]]:
        """What a hash is made of: each file's rows, and the checksums that it has of its own arrays."""
        return [(f.name, n, _checksums(f)) for f, n in zip(self.files, self.sizes, strict=True)]

    def to(self, device: torch.device | str) -> Shards:
        return dataclasses.replace(self, place=device)

    def order(self, seed: int, epoch: int) -> Order:
        return Order(self.sizes, seed, epoch)

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        index, parts = index.cpu(), []
        ends = torch.tensor(self.sizes).cumsum(0)
        which = torch.bucketize(index, ends, right=True)
        places = [(which == i).nonzero().flatten() for i in which.unique()]
        for rows in places:
            i = int(which[rows[0]])
            parts.append(self.shard(i).batch(index[rows] - (int(ends[i]) - self.sizes[i])))
        back = torch.cat(places).argsort()
        batch = {name: torch.cat([part[name] for part in parts])[back].to(self.place) for name in parts[0]}
        if self.dynamic:
            batch["x"] = torch.bernoulli(batch["x"], generator=generator)
        return batch

    def mean(self, name: str) -> Tensor:
        """The mean over the first file alone: what it is for, a start, needs no more."""
        return Split(self.fields, self.steps).mean(name)

    def subset(self, index: Tensor) -> Split:
        """These data in memory."""
        return Split(dataclasses.replace(self, dynamic=False, place="cpu").batch(index), dynamic=self.dynamic)

    def fixed(self, seed: int | Sequence[int]) -> Split:
        """The bits are drawn whenever a file is opened, always the same."""
        if not self.dynamic:
            return self
        seeds = tuple(seed) if isinstance(seed, Sequence) else (seed,)
        return dataclasses.replace(self, dynamic=False, drawn=seeds, kept={})

    def shard(self, i: int) -> Split:
        """The data of one file, in memory.

        Raises:
            DataError: it has other fields, or other rows, than it had.
        """
        if i not in self.kept:
            while len(self.kept) > WINDOW:  # a batch may lie on the border of two windows
                del self.kept[next(iter(self.kept))]
            found = read_file(self.files[i])
            sample, wanted = found.batch(torch.arange(1)), self._sample
            kinds = [{k: (v.shape[1:], v.dtype) for k, v in b.items()} for b in (sample, wanted)]
            if kinds[0] != kinds[1] or len(found) != self.sizes[i]:
                raise DataError(
                    f"{self.files[i]} holds {len(found)} rows of {_told(sample)}, and {self.sizes[i]} of "
                    f"{_told(wanted)} are expected: give all shards the same fields"
                )
            if self.drawn is not None:
                found = dataclasses.replace(found, dynamic=True).fixed((*self.drawn, 1 + i))
            self.kept[i] = found
        return self.kept[i]

    @property
    def _sample(self) -> dict[str, Tensor]:
        return Split(self.fields, self.steps).batch(torch.arange(1))


@dataclass(frozen=True)
class Order:
    """An epoch's order of the rows, of which slices are made as they are asked for."""

    sizes: tuple[int, ...]
    seed: int
    epoch: int

    def __getitem__(self, rows: slice) -> Tensor:
        shards = seeded.permutation(len(self.sizes), (self.seed, self.epoch, 1)).tolist()
        starts = list(itertools.accumulate(self.sizes, initial=0))
        parts, before = [], 0
        for window in range(0, len(shards), WINDOW):
            members = shards[window : window + WINDOW]
            count = sum(self.sizes[i] for i in members)
            low, high = max(rows.start - before, 0), min(rows.stop - before, count)
            if low < high:
                numbers = torch.cat([torch.arange(starts[i], starts[i] + self.sizes[i]) for i in members])
                shuffled = seeded.permutation(count, (self.seed, self.epoch, 2 + window))
                parts.append(numbers[shuffled[low:high]])
            before += count
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def shards_in(folder: Path) -> list[Path]:
    """The files of a folder that are shards of training data."""
    return [path for path in sorted(folder.glob("*.npz")) if path.name not in HELD_OUT]


def read_shards(folder: Path) -> Dataset:
    """The data set of a folder of shards; of each file the number of rows is read, and nothing else."""
    files = shards_in(folder)
    first = read_file(files[0])
    train = Shards(
        first.fields, first.steps, files=tuple(files), sizes=tuple(map(_rows, files)), kept={0: first}
    )
    valid, test = (read_file(folder / name) if (folder / name).is_file() else None for name in HELD_OUT)
    return Dataset(name=folder.name, train=train, valid=valid, test=test, source=str(folder))


def read_file(path: Path) -> Split:
    """The rows of one file."""
    parts = by_split(str(path), read_arrays(path))
    if len(parts) > 1:
        raise DataError(f"{path} has splits of its own, {', '.join(parts)}: give a shard x, and y if need be")
    if np.asarray(parts["train"].get("y", 0)).dtype.kind in "UO":
        raise DataError(f"y of {path} is text, whose classes one shard does not tell: give numbers")
    return from_parts(str(path), parts).train


def _rows(path: Path) -> int:
    """The first dimension of the arrays in a file, off the head of one of them."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
            old = np.lib.format.read_magic(file) == (1, 0)
            head = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            return head(file)[0][0]
    except (*BROKEN, IndexError) as error:
        raise DataError(f"{path} is no shard ({error}): make it by numpy.savez(path, x=...)") from error


def _checksums(path: Path) -> list[int]:
    with zipfile.ZipFile(path) as archive:
        return [member.CRC for member in archive.infolist()]


def _told(batch: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(value.shape[1:])} {value.dtype}" for name, value in batch.items())

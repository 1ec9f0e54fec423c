"""Who is in train, valid and test: named in the data, given as arrays, or drawn by a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

from ppvae.data import seeded
from ppvae.data.arrays import Parts
from ppvae.data.dataset import SPLITS, Dataset
from ppvae.errors import DataError, UsageError

ALIASES = {"val": "valid", "validation": "valid", "dev": "valid", "training": "train"}
FIELDS = {
    "images": "x",
    "image": "x",
    "data": "x",
    "labels": "y",
    "label": "y",
    "target": "y",
    "targets": "y",
}


def by_split(name: str, arrays: Mapping[str, Any]) -> Parts:
    """{split: {field: array}} of arrays under flat or nested names.

    Understood are `x`, `y`, ... (no splits); `train`, `valid`, `test` holding x, or each a mapping of
    fields; `x_train`, `y_test`, ...; `train_x`, `train_labels`, .... `val`, `validation` and `dev` are
    valid; `images`, `image` and `data` are x; `labels`, `label`, `target` and `targets` are y.
    """
    parts: Parts = {}
    for key, value in arrays.items():
        split, field = _split_and_field(str(key))
        whole = split is not None and field is None and isinstance(value, Mapping)
        found = value if whole else {field or "x": value}
        for inner, array in found.items():
            fields = parts.setdefault(split or "", {})
            inner = FIELDS.get(str(inner), str(inner))
            if inner in fields:
                raise DataError(f"{name} has {inner} twice, once as {key!r}; keep one of them")
            fields[inner] = array
    if "" in parts and len(parts) > 1:
        raise DataError(
            f"{name} has arrays with and without a split in their names: {sorted(map(str, arrays))}; "
            f"name all of them like x_train, or none"
        )
    if "" in parts:
        return {"train": parts[""]}
    if "train" not in parts:
        raise DataError(f"{name} has no train split but {sorted(parts)}; call its data x, or train")
    return {split: parts[split] for split in SPLITS if split in parts}


def carve(dataset: Dataset, valid: Any = None, test: Any = None, seed: int = 0) -> Dataset:
    """Take valid and test from train by a seeded permutation, where they are asked for.

    A size is a fraction of the rows in (0, 1), a count, or 0 or None for no such split.
    """
    sizes = {
        name: _count(name, size, len(dataset.train))
        for name, size in (("valid", valid), ("test", test))
        if size is not None
    }
    for name in sizes:
        if getattr(dataset, name) is not None:
            raise DataError(f"{dataset.name} has a {name} split of its own; leave {name} out")
    rows, taken = len(dataset.train), sum(sizes.values())
    if taken >= rows:
        counts = " and ".join(f"{size} for {name}" for name, size in sizes.items())
        raise DataError(
            f"{dataset.name} has {rows} row{'s' * (rows > 1)}, and {counts} leave none to train on; "
            "give more data, or load them by ppvae.data.load(..., valid=0, test=0)"
        )
    if not taken:
        return dataset
    order, made = seeded.permutation(rows, seed), {}
    for name, size in sizes.items():
        if size:
            made[name], order = dataset.train.subset(order[:size]), order[size:]
    return replace(dataset, train=dataset.train.subset(order), **made)


def is_size(value: Any) -> bool:
    """Whether `value` is a fraction or count, rather than the split itself."""
    return isinstance(value, Real)


def _count(name: str, size: Any, rows: int) -> int:
    whole = isinstance(size, Integral)
    shown = size if is_size(size) else type(size).__name__
    if isinstance(size, bool) or not is_size(size) or not size >= 0 or not (whole or size < 1):
        raise UsageError(
            f"{name}={shown} is no size of a split; give a fraction in (0, 1), a count, or 0 for none"
        )
    if whole:
        return int(size)
    return max(1, round(size * rows)) if size else 0


def _split_and_field(key: str) -> tuple[str | None, str | None]:
    """("train", "y") for y_train and train_labels, ("train", None) for train, (None, "y") for labels."""
    first, _, rest = key.partition("_")
    start, _, last = key.rpartition("_")
    for word, field in ((key, None), (first, rest), (last, start)):
        split = ALIASES.get(word.lower(), word.lower())
        if split in SPLITS and field != "":
            return split, None if field is None else FIELDS.get(field.lower(), field)
    return None, FIELDS.get(key, key)

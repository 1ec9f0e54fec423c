"""`load`: any data, by name, path or object, as a `Dataset`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ppvae.data import synthetic
from ppvae.data.arrays import Parts, from_parts
from ppvae.data.binarize import binarize
from ppvae.data.cifar10 import cifar10
from ppvae.data.dataset import Dataset
from ppvae.data.digits8x8 import digits8x8
from ppvae.data.embedded import digits
from ppvae.data.folder import read_folder
from ppvae.data.items import is_frame, read_frame, read_items
from ppvae.data.mnist import fashion_mnist, mnist
from ppvae.data.npz import read_arrays
from ppvae.data.shards import read_shards, shards_in
from ppvae.data.splits import by_split, carve, is_size
from ppvae.errors import DataError, UsageError, nearest

# name: how to read it from a root with a seed, and the sizes of valid and test taken from its train split
BUILTIN: dict[str, tuple[Callable[[Any, int], Dataset], Any, Any]] = {
    "digits": (lambda root, seed: digits(), None, None),
    "mnist": (lambda root, seed: mnist(root), 10_000, None),
    "fashion_mnist": (lambda root, seed: fashion_mnist(root), 10_000, None),
    "cifar10": (lambda root, seed: cifar10(root), 5_000, None),
    "digits8x8": (lambda root, seed: digits8x8(root), 0.1, 0.1),
    "ppca_toy": (lambda root, seed: synthetic.ppca_toy(seed=seed), None, None),
    "gaussian_mixture_2d": (lambda root, seed: synthetic.gaussian_mixture_2d(seed=seed), None, None),
    "two_moons": (lambda root, seed: synthetic.two_moons(seed=seed), None, None),
    "bars": (lambda root, seed: synthetic.bars(seed=seed), None, None),
    "noisy_or_toy": (lambda root, seed: synthetic.noisy_or_toy(seed=seed), None, None),
}
names: list[str] = list(BUILTIN)
KINDS = (
    "a built-in name, a path, a Tensor, a numpy array, a DataFrame, a dict of arrays, a torch Dataset, "
    "or a ppvae Dataset"
)


def load(
    what: Any,
    *,
    binarization: str | None = None,
    valid: Any = None,
    test: Any = None,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
) -> Dataset:
    """The data set `what`.

    what: a name out of `names`; the path of a `.npz`, a `.npy`, a folder of pictures (see `folder`), or one
        of `.npz` files to be read one after another, which need not fit into memory (see `shards`); a
        Tensor, numpy array or DataFrame x (see `arrays` for what its type and shape mean); a dict of arrays,
        under the names that `splits.by_split` lists, as in an `.npz`; a torch Dataset of items x, (x, y) or
        dicts; a ppvae Dataset, which comes back as it is.
    binarization: "none", "static", "dynamic" or "threshold" (see `binarize`); None keeps what there is.
    valid, test: how much of the training data to take by a seeded permutation: a fraction, a count, or 0
        for none. By default a tenth each where the data come without splits, and none where they come with
        some; mnist and fashion_mnist give 10,000, cifar10 5,000 to valid. For data in memory or in a file
        also the split itself, in any form that `what` can have but a name.
    seed: of the permutation, of the binarization and of the draws of a synthetic set.
    root: a folder searched before `$PPVAE_DATA` and the user's cache; none of them but the cache is written.

    UsageError for a name or option that does not exist, DataError for data that cannot be had or used.
    """
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed={seed!r} is no seed; give a whole number from 0 on")
    if isinstance(what, Dataset):
        if valid is not None or test is not None:
            raise UsageError("a ppvae Dataset has its splits already; leave valid and test out")
        dataset = what
    elif isinstance(what, str) and what in BUILTIN:
        dataset = _builtin(what, valid, test, seed, root)
    elif isinstance(what, str | os.PathLike) and shards_in(folder := Path(what).expanduser()):
        if valid is not None or test is not None:
            raise UsageError(f"{folder} is read shard by shard: leave valid= out, put a valid.npz there")
        dataset = read_shards(folder)
    else:
        dataset = _own(what, valid, test, seed)
    return dataset if binarization is None else binarize(dataset, binarization, seed)


def _builtin(name: str, valid: Any, test: Any, seed: int, root: Any) -> Dataset:
    make, default_valid, default_test = BUILTIN[name]
    dataset = make(root, seed)
    return carve(
        dataset,
        default_valid if valid is None else valid,
        default_test if test is None else test,
        seed,
    )


def _own(what: Any, valid: Any, test: Any, seed: int) -> Dataset:
    name = _name(what)
    parts = _parts(name, what)
    for split, given in (("valid", valid), ("test", test)):
        if given is not None and not is_size(given):
            if split in parts:
                raise DataError(f"{name} has a {split} split of its own; leave {split} out")
            more = _parts(f"the {split} split", given)
            if len(more) > 1:
                raise DataError(f"the {split} split has the splits {', '.join(more)}; give one of them")
            parts[split] = more["train"]
    whole = len(parts) == 1
    sizes = {"valid": valid, "test": test}
    sizes = {k: (0.1 if whole and s is None else s) for k, s in sizes.items() if s is None or is_size(s)}
    dataset = from_parts(name, parts)
    if isinstance(what, str | os.PathLike):
        dataset = replace(dataset, source=str(what))
    return carve(dataset, **sizes, seed=seed)


def _parts(name: str, what: Any) -> Parts:
    """{split: {field: array}} of anything but a built-in name."""
    if isinstance(what, str | os.PathLike):
        return _from_path(Path(what).expanduser())
    if isinstance(what, Mapping):
        return by_split(name, what)
    if is_frame(what):
        return {"train": read_frame(what)}
    if isinstance(what, TorchDataset):
        return {"train": read_items(what)}
    if isinstance(what, Tensor | np.ndarray):
        return {"train": {"x": what}}
    raise DataError(f"data of type {type(what).__name__} cannot be loaded; give {KINDS}")


def _from_path(path: Path) -> Parts:
    if path.is_dir():
        try:
            return read_folder(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); make it a readable folder") from error
    if path.suffix in (".npz", ".npy") and path.is_file():
        return by_split(str(path), read_arrays(path))
    if path.exists():
        raise DataError(f"{path} cannot be read; give an .npz or .npy file, or a folder of pictures")
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"{path} does not exist; give the path of an .npz file or a folder of pictures")
    raise UsageError(
        f"no data set {str(path)!r}{nearest(str(path), names) or '.'} There are: {', '.join(names)}; "
        "your own is found by the path of an .npz file or a folder of pictures"
    )


def _name(what: Any) -> str:
    if isinstance(what, str | os.PathLike):
        return Path(what).stem
    return "table" if is_frame(what) else type(what).__name__.lower()

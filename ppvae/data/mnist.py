"""MNIST and Fashion-MNIST, read straight from their four gzipped IDX files."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from ppvae.data.dataset import Dataset, Split
from ppvae.data.download import download
from ppvae.data.files import locate, missing, verified
from ppvae.errors import DataError

# MD5s as published in torchvision's `resources`: a table, since importing torchvision takes seconds.
MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
PARTS = {"train": "train", "test": "t10k"}


def mnist(root: str | os.PathLike[str] | None = None) -> Dataset:
    """70,000 handwritten digits as bytes: 60,000 to train on, 10,000 to test."""
    train, test = _splits("mnist", "MNIST", root)
    return Dataset(
        name="mnist",
        train=train,
        test=test,
        classes=tuple("0123456789"),
        description="handwritten digits, grey, 28 x 28",
        source="Y. LeCun, C. Cortes, C. Burges: The MNIST database of handwritten digits, 1998",
        licence="commonly given as CC BY-SA 3.0",
    )


def fashion_mnist(root: str | os.PathLike[str] | None = None) -> Dataset:
    """70,000 pictures of clothes as bytes: 60,000 to train on, 10,000 to test."""
    train, test = _splits("fashion_mnist", "FashionMNIST", root)
    return Dataset(
        name="fashion_mnist",
        train=train,
        test=test,
        classes=CLOTHES,
        description="articles of clothing, grey, 28 x 28",
        source="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST, 2017, arXiv:1708.07747",
        licence="MIT",
    )


def read(folder: Path, kind: str) -> dict[str, dict[str, np.ndarray]]:
    """`{"train": {"x": (60000, 28, 28), "y": (60000,)}, "test": ...}` in uint8, hashes checked.

    `folder` holds the four files, `kind` is MNIST or FashionMNIST.
    """
    parts = {}
    for split, stem in PARTS.items():
        names = {"x": f"{stem}-images-idx3-ubyte.gz", "y": f"{stem}-labels-idx1-ubyte.gz"}
        parts[split] = {
            field: idx(folder / name, verified(folder / name, "md5", MD5[kind][name]))
            for field, name in names.items()
        }
    return parts


def idx(path: Path, content: bytes) -> np.ndarray:
    """The uint8 array in a gzipped IDX file: bytes 0, 0, 8, ndim, then big-endian sizes, then the data."""
    try:
        raw = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file ({error}); put the original in its place") from error
    if raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(
            f"{path} starts with {raw[:4].hex() or 'nothing'}, expected 000008 of an IDX file of bytes; "
            f"put the original in its place"
        )
    shape = tuple(np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist())
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
    if data.size != np.prod(shape):
        raise DataError(
            f"{path} holds {data.size} bytes, its header says {shape}; put the original in its place"
        )
    return data.reshape(shape)


def _splits(name: str, kind: str, root: str | os.PathLike[str] | None) -> tuple[Split, Split]:
    files = [f"{kind}/raw/{file}" for file in MD5[kind]]
    base, reason = locate(files, root), ""
    if base is None:
        reason = download(kind, files)
        base = locate(files, root)
    if base is None:
        raise missing(name, f"{kind}/raw/{{{','.join(MD5[kind])}}}", root, reason)
    parts = read(base / kind / "raw", kind)
    return _split(**parts["train"]), _split(**parts["test"])


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    return Split({"x": torch.from_numpy(x.copy()).unsqueeze(1), "y": torch.from_numpy(y.copy())}, {"x": 255})

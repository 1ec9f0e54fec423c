"""CIFAR-10, from lossless webp sheets or from its original archive."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import torch

from ppvae.data.dataset import Dataset, Split
from ppvae.data.download import download
from ppvae.data.files import locate, missing, verified
from ppvae.errors import DataError

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"  # as published by torchvision
SHEETS_SHA256 = {
    "CIFAR10/data_batch_1.webp": "33ee1170f92bf498b555fd84884f47b0fd5cf861cd8906ba0494510ca02d8860",
    "CIFAR10/data_batch_2.webp": "f0cd79b244135a07833be96f5a711f71baf12b52ebbb0558a5e2b87a0fb99d41",
    "CIFAR10/data_batch_3.webp": "0fc8b7a37cf952720a4edb4401b27e0ac02fc6d8ec3b7a3fc7e7065e74fb0ea8",
    "CIFAR10/data_batch_4.webp": "3b94be3871dce4b7effe0bd85d7fea95d53946968481a5d323db7a3fbeb0ea3e",
    "CIFAR10/data_batch_5.webp": "864b5f2f1384951903533f09e5daec38734f154bc6ec7267a7e8fb6008e3942d",
    "CIFAR10/test_batch.webp": "1925251749113162ebc2866d7e46840a66fa4573713aa743599fd9d0370e7362",
    "CIFAR10/labels.npz": "b378158dd26d894336bd987b45841d5040553f03491da777b86bbf5d74da4e25",
}
Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def cifar10(root: str | os.PathLike[str] | None = None) -> Dataset:
    """60,000 colour pictures as bytes of shape (3, 32, 32): 50,000 to train on, 10,000 to test."""
    parts = _find(root)
    return Dataset(
        name="cifar10",
        train=_split(*parts["train"]),
        test=_split(*parts["test"]),
        classes=CLASSES,
        description="colour pictures of ten kinds of things, 32 x 32",
        source="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009",
        licence="no formal licence; free for research",
    )


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    return Split({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, {"x": 255})


def _find(root: str | os.PathLike[str] | None) -> Parts:
    if base := locate(SHEETS_SHA256, root):
        return _sheets(base)
    archives = (ARCHIVE, f"CIFAR10/{ARCHIVE}")
    found = [base / name for name in archives if (base := locate([name], root))]
    reason = "" if found else download("CIFAR10", [ARCHIVE])
    if not found and (base := locate([ARCHIVE], root)):
        found = [base / ARCHIVE]
    if not found:
        raise missing("cifar10", ARCHIVE, root, reason)
    return _archive(found[0])


def _sheets(base: Path) -> Parts:
    """Each webp is a sheet of 100 x 100 pictures, row by row in the original order."""
    from PIL import Image

    content = {name: verified(base / name, "sha256", value) for name, value in SHEETS_SHA256.items()}

    def pictures(stem: str) -> np.ndarray:
        sheet = np.asarray(Image.open(io.BytesIO(content[f"CIFAR10/{stem}.webp"])))
        tiles = sheet.reshape(100, 32, 100, 32, 3)  # row, y, column, x, channel
        return np.ascontiguousarray(tiles.transpose(0, 2, 4, 1, 3)).reshape(-1, 3, 32, 32)

    with np.load(io.BytesIO(content["CIFAR10/labels.npz"]), allow_pickle=False) as labels:
        train, test = labels["train"], labels["test"]
    return {
        "train": (np.concatenate([pictures(stem) for stem in BATCHES]), train),
        "test": (pictures("test_batch"), test),
    }


def _archive(path: Path) -> Parts:
    """The original archive of pickles: the one pickle that ppvae reads, after its hash, and arrays only."""
    content = verified(path, "md5", ARCHIVE_MD5)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:

        def batch(stem: str) -> tuple[np.ndarray, np.ndarray]:
            member = archive.extractfile(f"cifar-10-batches-py/{stem}")
            if member is None:
                raise DataError(f"{path} holds no {stem}; put the original archive in its place")
            part = _ArraysOnly(member, encoding="latin1").load()
            return part["data"].reshape(-1, 3, 32, 32).copy(), np.asarray(part["labels"], np.uint8)

        train = [batch(stem) for stem in BATCHES]
        x, y = (np.concatenate(pieces) for pieces in zip(*train, strict=True))
        return {"train": (x, y), "test": batch("test_batch")}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds numpy arrays and refuses everything else."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module.endswith("core.multiarray") and name == "_reconstruct":
            return lambda kind, shape, typecode: np.ndarray.__new__(kind, shape, typecode)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in the old protocols
            return lambda text, encoding: text.encode(encoding)
        raise DataError(f"the archive asks for {module}.{name}; put the original archive in its place")

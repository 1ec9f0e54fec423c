"""The set that comes with ppvae, so that the first command needs no network: `digits`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from ppvae.data.dataset import SPLITS, Dataset, Split
from ppvae.data.files import verified
from ppvae.errors import DataError

PATH = Path(__file__).with_name("digits.npz")
SHA256 = "ead4870c0433e64bec4218c29a9ebab2f68dbdac3169a8338a033f1ebc341286"
SEED = 1998


def digits() -> Dataset:
    """MNIST binarized once: bits of shape (1, 28, 28), 50,000 to train on, 10,000 valid, 10,000 test.

    x ~ Bernoulli(grey / 255) with the seed of `benchmarks/make_digits.py`, which made the file. It is not
    the draw of Larochelle's binarized MNIST: bounds on the two agree in law only.
    """
    if not PATH.is_file():
        raise DataError(f"{PATH} is missing; install ppvae again")
    content = verified(PATH, "sha256", SHA256)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        train, valid, test = (_split(arrays[split], arrays[f"{split}_labels"]) for split in SPLITS)
    return Dataset(
        name="digits",
        train=train,
        valid=valid,
        test=test,
        binarization="static",
        binarization_seed=SEED,
        classes=tuple("0123456789"),
        description="handwritten digits (MNIST), binarized once, 28 x 28",
        source="Y. LeCun, C. Cortes, C. Burges: The MNIST database of handwritten digits, 1998",
        licence="commonly given as CC BY-SA 3.0",
    )


def _split(packed: np.ndarray, labels: np.ndarray) -> Split:
    """98 packed bytes a picture, row-major, the first pixel in the highest bit."""
    bits = np.unpackbits(packed, axis=1).reshape(-1, 1, 28, 28)
    return Split({"x": torch.from_numpy(bits), "y": torch.from_numpy(labels)}, {"x": 1})

"""The UCI optical digits as scikit-learn ships them: 8 x 8 pixels in 17 grey levels."""

from __future__ import annotations

import gzip
import io
import os

import numpy as np
import torch

from ppvae.data.dataset import Dataset, Split
from ppvae.data.files import locate, missing, verified

FILE = "Digits8x8/digits.csv.gz"
SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


def digits8x8(root: str | os.PathLike[str] | None = None) -> Dataset:
    """1,797 digits without splits; a pixel 0 .. 16 is stored as it is and read as pixel / 16."""
    base = locate([FILE], root)
    if base is None:
        raise missing("digits8x8", FILE, root, "no download is known; scikit-learn ships it as digits.csv.gz")
    text = gzip.decompress(verified(base / FILE, "sha256", SHA256)).decode()
    rows = np.loadtxt(io.StringIO(text), delimiter=",").astype(np.uint8)  # 64 pixels and the label
    table = torch.from_numpy(rows)
    return Dataset(
        name="digits8x8",
        train=Split({"x": table[:, :64].reshape(-1, 1, 8, 8), "y": table[:, 64].clone()}, {"x": 16}),
        classes=tuple("0123456789"),
        description="handwritten digits in 17 grey levels, 8 x 8",
        source="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998 (test part)",
        licence="CC BY 4.0",
    )

"""Seeded permutations and Bernoulli draws that stay the same on every machine and version.

They use the raw 64-bit words of numpy's PCG64, the one stream that numpy promises never to change;
the methods of its Generator (`permutation`, `integers`) and those of torch carry no such promise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ROWS = 4096  # per chunk, so that the random words of a large set never fill the memory


def permutation(n: int, seed: int | Sequence[int]) -> Tensor:
    """A uniform permutation of 0 .. n - 1: int64 of shape (n,).

    It sorts n random words of 64 bits; two equal ones (probability about n^2 / 2^65) keep their order.
    """
    words = np.random.PCG64(seed).random_raw(n)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def bernoulli(x: Tensor, seed: int | Sequence[int], steps: int = 1) -> Tensor:
    """One draw of Bernoulli(x / steps), element by element: uint8 of x's shape, on x's device.

    A bit is 1 iff u < x / steps with u uniform on {0, ..., 2^32 - 1} / 2^32, so its probability is
    x / steps up to 2^-32, and exactly 0 and 1 at the ends.
    """
    stream = np.random.PCG64(seed)
    flat = x.detach().cpu().reshape(len(x), -1)
    bits = torch.empty(flat.shape, dtype=torch.uint8)
    for start in range(0, len(flat), ROWS):
        rows = flat[start : start + ROWS].numpy()
        words = stream.random_raw((rows.size + 1) // 2).astype("<u8", copy=False).view("<u4")
        uniform = words[: rows.size].reshape(rows.shape)
        if rows.dtype == np.uint8:  # in whole numbers: u * steps < x * 2^32
            drawn = uniform < _limits(steps)[rows]
        else:
            drawn = uniform < rows.astype(np.float64) * (2.0**32 / steps)
        bits[start : start + ROWS] = torch.from_numpy(drawn.view(np.uint8))
    return bits.reshape(x.shape).to(x.device)


def _limits(steps: int) -> np.ndarray:
    """The 33-bit limits ceil(v * 2^32 / steps) for v = 0 .. 255: u < limit iff u * steps < v * 2^32."""
    stored = np.arange(256, dtype=np.uint64)
    return -((-(stored.astype(np.int64) << 32)) // steps)

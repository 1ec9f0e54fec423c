"""Tensors of any bits, and what it means that two nests of values are equal in them."""

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)


def same(a, b) -> bool:
    """Equal in type, order and bits, all the way down; tensors in dtype and shape too."""
    if isinstance(a, torch.Tensor):
        whole = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return whole and torch.equal(as_bytes(a), as_bytes(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel():
        return torch.zeros(0, dtype=torch.uint8)
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def tensors_of(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    """Any bits at all, NaN payloads included."""
    tensor = torch.zeros(shape, dtype=dtype)
    if tensor.numel():
        high, size = (2 if dtype == torch.bool else 256), tensor.numel() * dtype.itemsize
        as_bytes(tensor).copy_(
            torch.from_numpy(np.random.RandomState(seed).randint(0, high, size, dtype=np.uint8))
        )
    return tensor


any_tensor = st.builds(
    tensors_of, st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**31)
)

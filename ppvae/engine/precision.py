"""How exactly nets compute: their products in bf16 or TF32, all log-probabilities and sums in float32.

A linear, convolutional or recurrent module computes in bfloat16, of 8 bits of mantissa, and gives float32 on.
Everything between and after them stays float32: activations, distributions, log-probabilities, losses, and
parameters with their optimizers. TF32 rounds the operands of float32 products to 10 bits, on GPUs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from ppvae.engine.calls import called_as, modules_of
from ppvae.errors import UsageError

PRODUCTS = (nn.Linear, nn.Bilinear, _ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


@contextlib.contextmanager
def nets_in(precision: str, device: torch.device | None, *parts: nn.Module) -> Iterator[None]:
    """Inside, the modules of `parts` that multiply compute in `precision`: float32, tf32 or bf16."""
    if precision == "bf16":
        kind = "cpu" if device is None else device.type
        with called_as(modules_of(PRODUCTS, parts), lambda forward: _in_bf16(forward, kind)):
            yield
    elif precision == "tf32":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
    else:
        yield


def _in_bf16(forward: Callable[..., Any], device: str) -> Callable[..., Any]:
    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            found = forward(*args, **kwargs)
        return pytree.tree_map_only(Tensor, _widened, found)

    return cast


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.bfloat16 else value


def refuse_precision(precision: str, device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Raise UsageError where this machine or these data have no such precision."""
    if precision == "tf32" and (device is None or device.type != "cuda"):
        raise UsageError("precision=tf32 is of GPUs, and this runs on the CPU: use bf16, or leave it out")
    if precision != "float32" and dtype == torch.float64:
        raise UsageError(
            f"precision={precision} is for float32, and the data are float64: convert them, or leave it out"
        )

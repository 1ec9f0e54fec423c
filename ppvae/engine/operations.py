"""Operations that a compiled graph calls instead of having code of its own made for them.

ppvae::straight(a, b, bias, after)    C = A B + bias by oneDNN, which wants A by rows and copies it if not
ppvae::turned(a, b, bias, after)      C = (B^T A^T)^T by oneDNN: copies B instead
ppvae::gathered(source, index)        the rows of a tensor
ppvae::scattered(x, weight, ...)      a transposed convolution as products, and a sum of their pieces
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, library
from torch.nn.functional import fold

_operators = library.Library("ppvae", "DEF")
VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
"""Of these operations: what the compiler's cache must know them by, which sees their names alone."""


def straight(a: Tensor, b: Tensor, bias: Tensor | None = None, after: str = "none") -> Tensor:
    """a b + bias: (M, K), (K, N), (N,) -> (M, N), whatever the strides; `after` it "relu", or "none"."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, after, [], "")


def turned(a: Tensor, b: Tensor, bias: Tensor | None = None, after: str = "none") -> Tensor:
    """The same, worked out as (b^T a^T)^T; it has no place for a bias."""
    assert bias is None
    return torch.ops.mkldnn._linear_pointwise(b.t(), a, None, after, [], "").t().contiguous()


def gathered(source: Tensor, index: Tensor) -> Tensor:
    """source[index]: (N, ...), (B,) -> (B, ...)."""
    return source.index_select(0, index)


def scattered(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
) -> Tensor:
    """conv_transpose2d: (B, D, H, W), (D, C, *kernel), (C,) -> (B, C, ...)."""
    columns = weight.flatten(1).t() @ x.flatten(2)
    size = _size(x, weight, stride, padding, output_padding)
    made = fold(columns, size, weight.shape[2:], 1, padding, stride)  # type: ignore[arg-type]
    return made if bias is None else made + bias.view(-1, 1, 1)


def _size(x: Tensor, weight: Tensor, *options: Sequence[int]) -> list[int]:
    """(H - 1) stride - 2 padding + kernel + output_padding of both sides."""
    sides = zip(x.shape[2:], weight.shape[2:], *options, strict=True)
    return [(n - 1) * stride - 2 * padding + kernel + extra for n, kernel, stride, padding, extra in sides]


def _define(name: str, schema: str, function, like) -> torch._ops.OpOverload:
    _operators.define(name + schema, tags=torch.Tag.flexible_layout)
    _operators.impl(name, function, "CPU")
    _operators.impl(name, like, "Meta")
    return getattr(torch.ops.ppvae, name).default


def _product_like(a: Tensor, b: Tensor, bias: Tensor | None, after: str) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[1]))


def _rows_like(source: Tensor, index: Tensor) -> Tensor:
    return source.new_empty((index.shape[0], *source.shape[1:]))


def _picture_like(x: Tensor, weight: Tensor, bias: Tensor | None, *options: Sequence[int]) -> Tensor:
    return x.new_empty((len(x), weight.shape[1], *_size(x, weight, *options)))


_SCHEMA = "(Tensor a, Tensor b, Tensor? bias, str after) -> Tensor"
STRAIGHT = _define("straight", _SCHEMA, straight, _product_like)
TURNED = _define("turned", _SCHEMA, turned, _product_like)
SCATTERED = _define(
    "scattered",
    "(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] output_padding) -> Tensor",
    scattered,
    _picture_like,
)
GATHERED = _define("gathered", "(Tensor source, Tensor index) -> Tensor", gathered, _rows_like)


@cache
def lower_directly() -> None:
    """Let inductor write the calls of torch themselves: by way of Python, each would cost 3 us more."""
    try:
        from torch._inductor import lowering

        linear = lowering.fallback_handler(
            torch.ops.mkldnn._linear_pointwise.default, add_to_fallback_set=False
        )
        select = lowering.fallback_handler(torch.ops.aten.index_select.default, add_to_fallback_set=False)
        turn = lowering.lowerings[torch.ops.aten.permute.default]
        register = [
            lowering.register_lowering(op, type_promotion_kind=None) for op in (STRAIGHT, TURNED, GATHERED)
        ]
    except (ImportError, AttributeError, KeyError):  # another torch: the operations serve as they are
        return
    register[0](lambda a, b, bias, after: linear(a, turn(b, [1, 0]), bias, after, [], ""))
    register[1](lambda a, b, bias, after: turn(linear(turn(b, [1, 0]), a, None, after, [], ""), [1, 0]))
    register[2](lambda source, index: select(source, 0, index))

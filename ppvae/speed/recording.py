"""What a step asks of torch: every operation that reaches the dispatcher, on tensors of which shapes.

It is recorded below Pyro, below autograd and below our own code, so that nothing is left out: the batch, the
guide, the model, the backward pass and the optimizers.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ppvae.speed.waiting import place_of, waits

IDLE = ("empty", "new_empty", "_unsafe_view", "_local_scalar_dense", "is_nonzero", "item", "resize_", "set_")
"""The starts of operations that are no views, and compute nothing either."""
ONLY_WRITE = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "exponential_", "random_")
"""Operations that do not look at what they overwrite."""
PICK = ("index_select", "index", "gather", "embedding", "take")
"""Operations that read of their first tensor only what they return."""


@dataclass(frozen=True)
class Like:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        """Its place in memory; along a dimension that is only expanded, stride 0, there is one entry."""
        entries = 1
        for size, stride in zip(self.shape, self.stride, strict=True):
            entries *= size if stride or not size else 1
        return entries * self.dtype.itemsize


@dataclass(frozen=True)
class Operation:
    """One call of tensor code, with a `Like` in the place of every tensor."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    flops: int
    """Floating point operations of a matrix product or a convolution; 0 for all else."""

    @property
    def name(self) -> str:
        return self.target._schema.name.removeprefix("aten::")

    @property
    def is_kernel(self) -> bool:
        """Whether it computes: views and allocations do not."""
        return not self.target.is_view and not self.name.startswith(IDLE)

    @property
    def bytes(self) -> int:
        """Memory that it reads and writes, each tensor once; 0 for what is no kernel."""
        return sum(self._moved()) if self.is_kernel else 0

    @property
    def _fills(self) -> bool:
        """Whether it looks at the shape of its tensor alone: ones_like, new_zeros."""
        return self.name.startswith("new_") or self.name.endswith("_like")

    def _moved(self) -> Iterator[int]:
        schema = self.target._schema
        made = [value for value, r in zip(_listed(self.out), schema.returns, strict=False) if _is_new(r)]
        returned = sum(map(_size, made))
        yield returned
        given = dict(zip((a.name for a in schema.arguments), self.args, strict=False)) | self.kwargs
        for i, argument in enumerate(a for a in schema.arguments if a.name in given):
            size = _size(given[argument.name])
            # A fused optimizer could unscale the gradients in place; without a scale it does not.
            writes = argument.alias_info is not None and argument.alias_info.is_write
            writes = writes and argument.name != "grads"
            reads = not (argument.is_out or self._fills or (writes and self.name in ONLY_WRITE))
            picks = i == 0 and self.name in PICK
            yield (min(size, returned) if picks else size) * reads + size * writes


@dataclass
class Recording:
    """What was called, in order, and what waited for the device."""

    operations: list[Operation] = field(default_factory=list)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often, by the operation's name and the line that led to it."""

    @property
    def kernels(self) -> list[Operation]:
        return [operation for operation in self.operations if operation.is_kernel]

    @property
    def products(self) -> list[Operation]:
        """The matrix products and convolutions, backward ones included."""
        return [operation for operation in self.operations if operation.flops]

    @property
    def flops(self) -> int:
        return sum(operation.flops for operation in self.operations)

    @property
    def bytes(self) -> int:
        return sum(operation.bytes for operation in self.operations)


def record(function: Callable[..., Any], *args: Any) -> Recording:
    """Call it, and write down what it asks of torch."""
    with _Recorder(record.__code__) as recorder:
        function(*args)
    return recorder.found


class _Recorder(TorchDispatchMode):
    def __init__(self, stop: types.CodeType):
        super().__init__()
        self.found, self.stop = Recording(), stop

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if waits(func, args, kwargs):
            name = func._schema.name.removeprefix("aten::")
            self.found.waits[name, place_of(self.stop)] += 1
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        flops = formula(*args, **kwargs, out_val=out) if formula is not None else 0
        given, named, made = pytree.tree_map_only(Tensor, _like, (args, kwargs, out))
        self.found.operations.append(Operation(func, given, named, made, flops))
        return out


def _like(tensor: Tensor) -> Like:
    dense = tensor.layout is torch.strided
    stride = tensor.stride() if dense else (1,) * tensor.dim()
    return Like(tuple(tensor.shape), stride, tensor.dtype, tensor.device)


def _is_new(returned: Any) -> bool:
    return returned.alias_info is None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


def _size(value: Any) -> int:
    return sum(leaf.bytes for leaf in pytree.tree_leaves(value) if isinstance(leaf, Like))

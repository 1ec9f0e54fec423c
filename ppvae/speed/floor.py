"""The floor under a step: its matrix products and convolutions alone, and one pass of the optimizer.

    floor = time of all products, one after another, on tensors of the same shapes, strides and types
          + time of one fused Adam over as many parameters

No way of running the same nets on the same machine can leave these out; all else can be fused into them, or
hidden behind them. A compiled step comes near to it. It is no law: who finds a faster product, or takes the
optimizer's pass while a gradient is still at hand, goes below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ppvae.engine.products import faster_products
from ppvae.engine.updates import make_optimizer
from ppvae.speed.recording import Like, Operation
from ppvae.speed.timing import Measure, clock_of

LOWER = {torch.float64: torch.float32, torch.float32: torch.bfloat16}
"""The next lower precision that products may be taken in."""


class Products:
    """The same products on tensors of their own, each by the fastest library there is for it."""

    def __init__(self, operations: Iterable[Operation], lower: bool = False):
        operations, graph = list(operations), fx.Graph()
        self.tensors: list[Tensor] = []

        def made(like: Like) -> fx.Node:
            self.tensors.append(tensor(like, lower))
            place = graph.placeholder(f"tensor_{len(self.tensors)}")
            place.meta["val"] = self.tensors[-1]
            return place

        given = [pytree.tree_map_only(Like, made, (o.args, o.kwargs)) for o in operations]
        calls = [graph.call_function(o.target, *own) for o, own in zip(operations, given, strict=True)]
        end = graph.output(calls)
        self.graph = fx.GraphModule({}, graph)
        faster_products(self.graph)
        graph.eliminate_dead_code()
        end.args = (None,)  # so that nothing is kept longer than it takes
        self.graph.recompile()

    @torch.no_grad()
    def __call__(self) -> None:
        self.graph(*self.tensors)

    def run(self) -> bool:
        """Whether the machine has all of them; some types it has not."""
        try:
            self()
        except (RuntimeError, NotImplementedError):
            return False
        return True

    def measure(self, device: torch.device, name: str) -> Measure:
        """Time of all of them, one after another."""

        clock = clock_of(device)

        def measure(steps: int) -> dict[str, float]:
            started = clock()
            for _ in range(steps):
                self()
            return {name: (clock() - started) / steps}

        return measure


def tensor(like: Like, lower: bool = False) -> Tensor:
    """A tensor of that kind: random numbers, or zeros where they are whole."""
    dtype = LOWER.get(like.dtype, like.dtype) if lower else like.dtype
    entries = 1 + sum((size - 1) * stride for size, stride in zip(like.shape, like.stride, strict=True))
    entries = 0 if 0 in like.shape else entries
    kind: dict[str, Any] = {"dtype": dtype, "device": like.device}
    flat = torch.randn(entries, **kind) if dtype.is_floating_point else torch.zeros(entries, **kind)
    return flat.as_strided(like.shape, like.stride)


def optimizer(parameters: Iterable[Tensor], kind: str, device: torch.device, name: str) -> Measure:
    """Time of one fused step over copies of these parameters: reading and writing memory, little else."""
    step = _optimizer_step(parameters, kind if kind in ("adam", "adamw", "sgd") else "adam")
    clock = clock_of(device)

    def measure(steps: int) -> dict[str, float]:
        started = clock()
        for _ in range(steps):
            step()
        return {name: (clock() - started) / steps}

    return measure


def _optimizer_step(parameters: Iterable[Tensor], kind: str) -> Callable[[], Any]:
    copies = [nn.Parameter(torch.randn_like(parameter)) for parameter in parameters]
    for copy in copies:
        copy.grad = torch.randn_like(copy)
    return make_optimizer(kind, copies, lr=1e-3, weight_decay=0.0).step

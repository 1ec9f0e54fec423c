"""Matrix products in float32, by whichever of torch's two libraries is faster on this processor.

torch hands them to MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN, which torch uses for
convolutions, takes AVX-512 wherever there is any: on an AMD Zen 5 that is twice as fast. A compiled graph is
given the faster of the two, product by product (`fastest.py`). Rounding is all that differs.

    aten        torch's own `mm` and `addmm`
    straight    C = A B by oneDNN, which wants A by rows and copies it where it is not
    turned      C = (B^T A^T)^T by oneDNN: copies B instead, which pays where B is the smaller one

A ReLU that is all that reads a product is done with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from ppvae.engine.fastest import fastest
from ppvae.engine.operations import STRAIGHT, TURNED, straight, turned

aten = torch.ops.aten
OPERATIONS = {"straight": STRAIGHT, "turned": TURNED}
Product = tuple[Tensor, Tensor, Tensor | None]
"""The (fake) factors (M, K), (K, N) and the bias (N,)."""


def faster_products(graph: fx.GraphModule) -> None:
    """Do each float32 product on the CPU in the fastest way, in place."""
    for node in list(graph.graph.nodes):
        found = product_of(node)
        way = "aten" if found is None else fastest_way(*found)[0]
        if way == "aten":
            continue
        *factors, bias = (*node.args, None) if len(node.args) == 2 else (*node.args[1:], node.args[0])
        relu = _relu_of(node)
        after = "none" if relu is None else "relu"
        with graph.graph.inserting_before(node):
            made = graph.graph.call_function(OPERATIONS[way], (*factors, bias, after))
        made.meta = dict(node.meta)
        if relu is not None:
            relu.replace_all_uses_with(relu.args[0])  # type: ignore[arg-type]
        node.replace_all_uses_with(made)


def fastest_way(a: Tensor, b: Tensor, bias: Tensor | None) -> tuple[str, float]:
    """For factors of such shapes and strides: (the way, the seconds that it spares)."""
    kind = ["product", [[*t.shape, *t.stride()] for t in (a, b)], bias is not None]
    return fastest(kind, lambda: _ways(a, b, bias))


def _ways(a: Tensor, b: Tensor, bias: Tensor | None) -> dict[str, Callable[[], Tensor]]:
    left, right = (torch.empty_strided(t.shape, t.stride()).fill_(0.5) for t in (a, b))
    if bias is None:
        return {
            "aten": lambda: torch.mm(left, right),
            "straight": lambda: straight(left, right),
            "turned": lambda: turned(left, right),
        }
    added = torch.zeros(b.shape[1])
    return {
        "aten": lambda: torch.addmm(added, left, right),
        "straight": lambda: straight(left, right, added),
    }


def product_of(node: fx.Node) -> Product | None:
    """The product that a node is, if another way could do it; None where it is none, or could not."""
    if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs or not available():
        return None
    values = [argument.meta["val"] for argument in node.args if isinstance(argument, fx.Node)]
    bias, a, b = (None, *values) if len(values) == 2 else values
    if any(v.dtype != torch.float32 or v.device.type != "cpu" for v in values):
        return None
    if any(not isinstance(n, int) or n == 0 for v in (a, b) for n in (*v.shape, *v.stride())):
        return None  # sizes that vary, no numbers at all, or one number for a whole row
    return None if bias is not None and bias.dim() != 1 else (a, b, bias)


def available() -> bool:
    """Whether torch has oneDNN, and may use it."""
    mkldnn: Any = torch.backends.mkldnn
    return mkldnn.is_available() and mkldnn.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _relu_of(node: fx.Node) -> fx.Node | None:
    """The ReLU that is all that reads a product, or its view; None where there is none."""
    (user, *others) = node.users or (None,)
    if others or user is None:
        return None
    if user.target in (aten.view.default, aten._unsafe_view.default):
        return _relu_of(user)
    return user if user.target is aten.relu.default else None

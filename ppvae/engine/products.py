"""Matrix products in float32, by whichever of torch's two libraries is faster on this processor.

torch hands them to MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN, which torch uses for
convolutions, takes AVX-512 wherever there is any: on an AMD Zen 5 that is twice as fast. A compiled graph is
given the faster of the two, product by product, as measured once on this machine and remembered beside the
compiler's cache, so that a second run rounds as the first one did. Rounding is all that differs.

    aten        torch's own `mm` and `addmm`
    straight    C = A B by oneDNN, which wants A by rows and copies it where it is not
    turned      C = (B^T A^T)^T by oneDNN: copies B instead, which pays where B is the smaller one

A ReLU that is all that reads a product is done with it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from ppvae.engine.costs import folder
from ppvae.engine.operations import STRAIGHT, TURNED, straight, turned
from ppvae.environment import processor

WAYS = ("aten", "straight", "turned")
GAIN = 0.9
"""Another way is taken where it needs at most this share of the time of torch's own."""
OPERATIONS = {"straight": STRAIGHT, "turned": TURNED}


def faster_products(graph: fx.GraphModule) -> None:
    """Do each float32 product on the CPU in the fastest way, in place."""
    if not available():
        return
    for node in list(graph.graph.nodes):
        found = _product(node)
        way = "aten" if found is None else fastest(*found)[0]
        if way == "aten":
            continue
        *factors, bias = (*node.args, None) if len(node.args) == 2 else (*node.args[1:], node.args[0])
        relu = _relu_of(node)
        with graph.graph.inserting_before(node):
            made = graph.graph.call_function(
                OPERATIONS[way], (*factors, bias, "none" if relu is None else "relu")
            )
        made.meta = dict(node.meta)
        if relu is not None:
            relu.replace_all_uses_with(relu.args[0])  # type: ignore[arg-type]
        node.replace_all_uses_with(made)


def spared(graph: fx.GraphModule) -> float:
    """Seconds that a run of the graph is spared by that; 0 where its products stay as they are."""
    if not available():
        return 0.0
    found = [_product(node) for node in graph.graph.nodes]
    return sum(fastest(*product)[1] for product in found if product is not None)


def _relu_of(node: fx.Node) -> fx.Node | None:
    """The ReLU that is all that reads a product, or its view; None where there is none."""
    (user, *others) = node.users or (None,)
    if others or user is None:
        return None
    if user.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
        return _relu_of(user)
    return user if user.target is torch.ops.aten.relu.default else None


def available() -> bool:
    """Whether torch has oneDNN, and may use it."""
    mkldnn: Any = torch.backends.mkldnn
    return mkldnn.is_available() and mkldnn.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(node: fx.Node) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The (fake) factors and the bias of a product that another way could do; None where there is none."""
    if node.target not in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default) or node.kwargs:
        return None
    values = [argument.meta["val"] for argument in node.args if isinstance(argument, fx.Node)]
    bias, a, b = (None, *values) if len(values) == 2 else values
    if any(v.dtype != torch.float32 or v.device.type != "cpu" for v in values):
        return None
    if any(not isinstance(n, int) or n == 0 for v in (a, b) for n in (*v.shape, *v.stride())):
        return None  # sizes that vary, no numbers at all, or one number for a whole row
    return None if bias is not None and bias.dim() != 1 else (a, b, bias)


def fastest(a: Tensor, b: Tensor, bias: Tensor | None) -> tuple[str, float]:
    """Which of `WAYS` is the fastest for factors of such shapes and strides, and the seconds that it spares:
    measured, or remembered."""
    shapes = [(*t.shape, *t.stride()) for t in (a, b)]
    kind = json.dumps([shapes, bias is not None, torch.get_num_threads(), _machine()])
    known = _remembered()
    if kind not in known:
        known[kind] = _measured(a, b, bias)
        _remember(known)
    return known[kind]


def _measured(a: Tensor, b: Tensor, bias: Tensor | None) -> tuple[str, float]:
    left, right = (torch.empty_strided(t.shape, t.stride()).fill_(0.5) for t in (a, b))
    added = None if bias is None else torch.zeros(b.shape[1])
    ways: dict[str, Callable[[], Tensor]] = {
        "aten": lambda: torch.mm(left, right) if added is None else torch.addmm(added, left, right),
        "straight": lambda: straight(left, right, added),
    }
    if added is None:
        ways["turned"] = lambda: turned(left, right)
    with torch.no_grad():
        seconds = _shortest(ways)
    name = min(seconds, key=seconds.__getitem__)
    name = name if seconds[name] <= GAIN * seconds["aten"] else "aten"
    return name, seconds["aten"] - seconds[name]


def _shortest(ways: dict[str, Callable[[], Tensor]], budget: float = 0.02) -> dict[str, float]:
    """The shortest of some runs of each, in seconds of this thread, taken in turns: whatever else goes on
    here makes a run longer, never shorter."""
    best = dict.fromkeys(ways, float("inf"))
    started, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() - started < budget:
        for name, way in ways.items():
            before = time.thread_time()
            way()
            best[name] = min(best[name], time.thread_time() - before)
        rounds += 1
    return best


@cache
def _machine() -> list[str]:
    return [str(torch.__version__), torch.backends.cpu.get_cpu_capability(), processor()]


@cache
def _remembered() -> dict[str, tuple[str, float]]:
    try:
        found = json.loads((folder() / "products.json").read_text(encoding="utf-8"))
        return {kind: (way, float(seconds)) for kind, (way, seconds) in found.items() if way in WAYS}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(known: dict[str, tuple[str, float]]) -> None:
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder(), delete=False, encoding="utf-8") as file:
            json.dump(known, file, indent=0)
        os.replace(file.name, folder() / "products.json")
    except OSError:
        pass

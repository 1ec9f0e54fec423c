"""What a tensor was computed from, read off the graph of autograd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def graph_leaves(roots: Iterable[Tensor]) -> Iterator[Tensor]:
    """The leaf tensors that a backward pass from `roots` would reach, a root that is one itself among them.

    Each once for each graph node that gathers its gradient; nothing for roots that need no gradient.
    """
    ahead: list[Any] = []
    for root in roots:
        if root.grad_fn is not None:
            ahead.append(root.grad_fn)
        elif root.requires_grad:
            yield root
    seen = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # where the graph ends
            yield node.variable
        ahead += [before for before, _ in node.next_functions]

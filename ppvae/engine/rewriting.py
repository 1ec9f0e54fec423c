"""A flat graph rewritten for the compiler: the same numbers up to rounding, in less time."""

from __future__ import annotations

import copy
import math

import torch
from torch import fx

from ppvae.engine.products import faster_products


def rewritten(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy of the graph for the compiler; the given one stays as it is, to be held against."""
    graph = copy.deepcopy(graph)
    unflattened_sums(graph)
    faster_products(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def unflattened_sums(graph: fx.GraphModule) -> None:
    """x.view(*leading, -1).sum(-1) becomes x.sum over those dimensions, in place.

    So Pyro sums the log-probability of an event of several dimensions. Where x is read from elsewhere in its
    own shape, inductor then works out every place by division, one number at a time.
    """
    for node in graph.graph.nodes:
        if node.target is not torch.ops.aten.sum.dim_IntList or len(node.args) != 2 or node.kwargs:
            continue
        view, dims = node.args
        if view.target not in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            continue
        source, shape = view.args[0], tuple(view.meta["val"].shape)
        before = tuple(source.meta["val"].shape)
        kept = len(shape) - 1
        merged = before[:kept] == shape[:kept] and len(before) > len(shape)
        if list(dims) in ([-1], [kept]) and merged and math.prod(before[kept:]) == shape[kept]:
            node.args = (source, list(range(kept - len(before), 0)))

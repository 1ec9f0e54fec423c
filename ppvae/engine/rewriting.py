"""A flat graph rewritten for the compiler: the same numbers up to rounding, in less time."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import fx

from ppvae.engine import convolutions, products
from ppvae.engine.convolutions import faster_convolutions
from ppvae.engine.operations import GATHERED, lower_directly
from ppvae.engine.products import faster_products

aten = torch.ops.aten


def rewritten(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy of the graph for the compiler; the given one stays as it is, to be held against."""
    graph = copy.deepcopy(graph)
    lower_directly()
    gathered_once(graph)
    unflattened_sums(graph)
    cheaper_bernoulli(graph)
    faster_products(graph)
    faster_convolutions(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def spared(graph: fx.GraphModule) -> float:
    """Seconds that a run of the graph is spared by what is measured to be faster; 0 where that is nothing."""
    found = [products.product_of(node) for node in graph.graph.nodes]
    seconds = sum(products.fastest_way(*product)[1] for product in found if product is not None)
    others = [convolutions.convolution_of(node) for node in graph.graph.nodes]
    return seconds + sum(convolutions.fastest_way(*other)[1] for other in others if other is not None)


def gathered_once(graph: fx.GraphModule) -> None:
    """Rows of stored bytes on the CPU are copied out by index, and then turned into floats, in place: a
    compiler that fuses both goes back to the data, which no cache holds, for everything that reads the batch.
    """
    for node in graph.graph.nodes:
        if node.target is not aten.index_select.default or node.args[1] != 0:
            continue
        value = node.meta["val"]
        if value.dtype == torch.uint8 and value.device.type == "cpu":
            node.target, node.args = GATHERED, (node.args[0], node.args[2])


def unflattened_sums(graph: fx.GraphModule) -> None:
    """x.view(*leading, -1).sum(-1) becomes x.sum over those dimensions, in place.

    So Pyro sums the log-probability of an event of several dimensions. Where x is read from elsewhere in its
    own shape, inductor then works out every place by division, one number at a time.
    """
    for node in graph.graph.nodes:
        if node.target is not aten.sum.dim_IntList or len(node.args) != 2 or node.kwargs:
            continue
        view, dims = node.args
        if view.target not in (aten.view.default, aten._unsafe_view.default):
            continue
        source, shape = view.args[0], tuple(view.meta["val"].shape)
        before = tuple(source.meta["val"].shape)
        kept = len(shape) - 1
        merged = before[:kept] == shape[:kept] and len(before) > len(shape)
        if list(dims) in ([-1], [kept]) and merged and math.prod(before[kept:]) == shape[kept]:
            node.args = (source, list(range(kept - len(before), 0)))


def cheaper_bernoulli(graph: fx.GraphModule) -> None:
    """log p(x) of a Bernoulli by its logits l in float32, and the sigmoid of its gradient, in place:

        -log p(x) = (1 - x) l - min(l, 0) + log(1 + e),   e = exp(-|l|) in [0, 1]
        log(1 + e) = 2 artanh(u) = 2 u (1 + u^2 / 3 + u^4 / 5 + ...),   u = e / (2 + e) in [0, 1/3]
        sigmoid(l) = (1 if l >= 0 else e) / (1 + e)

    The series has seven terms, and is off by less than half a unit in the last place, where log1p is a call
    that takes as long as ten of them; and both share one exponential.
    """
    exponentials: dict[fx.Node, fx.Node] = {}
    call = graph.graph.call_function
    for node in list(graph.graph.nodes):
        loss = node.target is aten.binary_cross_entropy_with_logits.default
        if loss and node.args[2:] == (None, None, 0) and node.meta["val"].dtype == torch.float32:
            logits, x = node.args[:2]
            with graph.graph.inserting_before(node):
                e = call(aten.exp.default, (call(aten.neg.default, (call(aten.abs.default, (logits,)),)),))
                linear = call(aten.mul.Tensor, (call(aten.rsub.Scalar, (x, 1)), logits))
                least = call(aten.clamp_max.default, (logits, 0))
                made = call(aten.add.Tensor, (call(aten.sub.Tensor, (linear, least)), _log1p(graph, e)))
            exponentials[logits] = e
        elif node.target is aten.sigmoid.default and node.args[0] in exponentials:
            e = exponentials[node.args[0]]
            with graph.graph.inserting_before(node):
                above = call(aten.where.ScalarSelf, (call(aten.ge.Scalar, (node.args[0], 0)), 1.0, e))
                made = call(aten.div.Tensor, (above, call(aten.add.Tensor, (e, 1))))
        else:
            continue
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)


def _log1p(graph: fx.GraphModule, e: Any) -> fx.Node:
    """log(1 + e) for 0 <= e <= 1."""
    call = graph.graph.call_function
    u = call(aten.div.Tensor, (e, call(aten.add.Tensor, (e, 2))))
    square = call(aten.mul.Tensor, (u, u))
    total = call(aten.mul.Tensor, (square, 2 / 13))
    for odd in (11, 9, 7, 5, 3):
        total = call(aten.mul.Tensor, (call(aten.add.Tensor, (total, 2 / odd)), square))
    return call(aten.mul.Tensor, (call(aten.add.Tensor, (total, 2)), u))

"""Transposed convolutions in float32 on the CPU, as a product where that is faster.

To few channels, as to the one of a grey picture, oneDNN has no fast code: a decoder's last layer took a sixth
of the whole step. The same as one product for each picture and a sum of overlapping pieces,

    columns[c k l, i j] = sum_d w[d, c, k, l] x[d, i, j]
    y[c, s i + k - p, s j + l - p] += columns[c k l, i j]

takes a fifth of that time there, and much longer elsewhere: the choice is measured (`fastest.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ppvae.engine.fastest import fastest
from ppvae.engine.operations import SCATTERED, scattered

aten = torch.ops.aten


def faster_convolutions(graph: fx.GraphModule) -> None:
    """Do each transposed convolution in the fastest way, in place."""
    for node in list(graph.graph.nodes):
        found = convolution_of(node)
        if found is not None and fastest_way(*found)[0] == "scattered":
            with graph.graph.inserting_before(node):
                x, weight, bias, stride, padding, _, _, output_padding, _ = node.args
                made = graph.graph.call_function(
                    SCATTERED, (x, weight, bias, stride, padding, output_padding)
                )
            made.meta = dict(node.meta)
            node.replace_all_uses_with(made)


def fastest_way(x: Tensor, weight: Tensor, options: dict[str, Any]) -> tuple[str, float]:
    """For input and weight of such shapes and strides: (the way, the seconds that it spares)."""
    kind = ["scattered", [[*t.shape, *t.stride()] for t in (x, weight)], options]

    def ways() -> dict[str, Any]:
        a, b = (torch.empty_strided(t.shape, t.stride()).fill_(0.5) for t in (x, weight))
        return {
            "aten": lambda: torch.conv_transpose2d(a, b, None, **options),
            "scattered": lambda: scattered(a, b, None, *options.values()),
        }

    return fastest(kind, ways)


def convolution_of(node: fx.Node) -> tuple[Tensor, Tensor, dict[str, Any]] | None:
    """(input, weight, options) of a transposed convolution of pictures that could be done otherwise; None
    where there is none."""
    if node.target is not aten.convolution.default or len(node.args) != 9:
        return None
    *_, stride, padding, dilation, transposed, output_padding, groups = node.args
    x, weight = (argument.meta["val"] for argument in node.args[:2])  # type: ignore[union-attr]
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == 4
    if not plain or not transposed or groups != 1 or list(dilation) != [1, 1]:  # type: ignore[arg-type]
        return None
    if any(not isinstance(n, int) or n == 0 for v in (x, weight) for n in (*v.shape, *v.stride())):
        return None
    return x, weight, {"stride": stride, "padding": padding, "output_padding": output_padding}

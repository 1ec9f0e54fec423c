"""Transposed convolutions as products: the same pictures up to rounding."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import conv_transpose2d

from ppvae.engine import compiling, convolutions
from ppvae.engine.convolutions import convolution_of, faster_convolutions, fastest_way
from ppvae.engine.operations import SCATTERED, scattered
from ppvae.engine.rewriting import rewritten, spared

aten = torch.ops.aten
SHAPES = [
    ((3, 4, 5, 5), (4, 1, 4, 4), (2, 2), (1, 1), (0, 0)),
    ((2, 3, 1, 2), (3, 2, 3, 2), (2, 1), (0, 1), (1, 0)),
    ((1, 2, 3, 4), (2, 3, 4, 4), (2, 2), (1, 1), (1, 1)),
    ((2, 2, 3, 3), (2, 2, 1, 1), (1, 1), (0, 0), (0, 0)),
]


def traced(function, *inputs):
    return make_fx(function, tracing_mode="fake")(*inputs)


def targets(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(convolutions, "fastest_way", lambda *found: ("scattered", 1.0))


@pytest.mark.parametrize(("x", "weight", "stride", "padding", "extra"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_transposed_convolution(x, weight, stride, padding, extra, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(x, dtype=torch.float64), torch.randn(weight, dtype=torch.float64)
    shift = torch.randn(weight.shape[1], dtype=torch.float64) if bias else None
    wanted = conv_transpose2d(x, weight, shift, stride, padding, extra)
    torch.testing.assert_close(scattered(x, weight, shift, stride, padding, extra), wanted)
    shape = SCATTERED(x.to("meta"), weight.to("meta"), None, stride, padding, extra).shape
    assert shape == wanted.shape


def test_a_graph_with_it_gives_the_same_gradients_included(always):
    torch.manual_seed(1)
    x, weight, bias = torch.randn(3, 4, 5, 5), torch.randn(4, 2, 4, 4), torch.randn(2)

    def net(x, weight, bias):
        leaves = [value.detach().requires_grad_() for value in (x, weight, bias)]
        loss = conv_transpose2d(*leaves, stride=2, padding=1).sin().sum()
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    graph = traced(net, x, weight, bias)
    wanted = graph(x, weight, bias)
    faster_convolutions(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    assert SCATTERED in targets(graph)
    assert aten.convolution.default not in targets(graph)
    torch.testing.assert_close(graph(x, weight, bias), wanted)
    assert spared(traced(net, x, weight, bias)) >= 1.0


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Conv2d(4, 2, 3), (2, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 2, 3, groups=2), (2, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 2, 3, dilation=2), (2, 4, 5, 5)),
        (nn.ConvTranspose1d(4, 2, 3), (2, 4, 5)),
        (nn.ConvTranspose2d(4, 2, 3).double(), (2, 4, 5, 5)),
    ],
)
def test_other_convolutions_stay(always, net, shape):
    parameters = [p.detach() for p in net.parameters()]
    x = torch.randn(shape, dtype=parameters[0].dtype)

    def function(x, *parameters):
        named = dict(zip(dict(net.named_parameters()), parameters, strict=True))
        return [torch.func.functional_call(net, named, (x,))]

    graph = traced(function, x, *parameters)
    before = targets(graph)
    assert aten.convolution.default in before
    assert not any(convolution_of(node) for node in graph.graph.nodes)
    faster_convolutions(graph)
    assert targets(graph) == before


def test_both_ways_are_measured(monkeypatch):
    """And compute the same; nothing is drawn."""
    state, found = torch.get_rng_state(), []
    monkeypatch.setattr(
        convolutions, "fastest", lambda kind, ways: found.append((kind, ways())) or ("aten", 0)
    )
    options = {"stride": [2, 2], "padding": [1, 1], "output_padding": [0, 0]}
    fastest_way(torch.zeros(3, 4, 5, 5), torch.zeros(4, 1, 4, 4), options)
    fastest_way(torch.zeros(3, 4, 5, 5), torch.zeros(4, 1, 4, 4), {**options, "stride": [1, 1]})
    (kind, ways), (other, _) = found
    assert kind != other
    assert list(ways) == ["aten", "scattered"]
    torch.testing.assert_close(ways["aten"](), ways["scattered"]())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(
    compiling.missing_compiler(torch.device("cpu")) is not None, reason="there is no C++ compiler"
)
def test_compiled_it_gives_the_same(always):
    torch.manual_seed(2)
    x, weight, bias = torch.randn(3, 4, 5, 5), torch.randn(4, 1, 4, 4), torch.randn(1)
    graph = traced(lambda x, w, b: [conv_transpose2d(x.relu(), w, b, 2, 1).tanh()], x, weight, bias)
    assert SCATTERED in targets(rewritten(graph))
    (found,) = compiling.compiled(graph, [x, weight, bias])(x, weight, bias)
    torch.testing.assert_close(found, graph(x, weight, bias)[0])

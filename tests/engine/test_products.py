"""Products by whichever library is faster: the same numbers up to rounding."""

import itertools
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.engine import compiling, products
from ppvae.engine.operations import STRAIGHT, TURNED, straight, turned
from ppvae.engine.products import faster_products
from ppvae.engine.rewriting import spared

aten = torch.ops.aten
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]


def factor(rows: int, columns: int, transposed: bool, dtype=torch.float32):
    return (
        torch.randn(columns, rows, dtype=dtype).t() if transposed else torch.randn(rows, columns, dtype=dtype)
    )


def traced(function, *inputs):
    return make_fx(function, tracing_mode="fake")(*inputs)


def targets(graph) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def rewritten(graph):
    faster_products(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


@pytest.fixture
def always(monkeypatch):
    """Every product is done in this way."""

    def choose(way: str) -> None:
        monkeypatch.setattr(
            products, "fastest_way", lambda a, b, bias: (way if bias is None else "straight", 1.0)
        )

    return choose


@pytest.mark.parametrize(("left", "right"), LAYOUTS)
@pytest.mark.parametrize("way", [straight, turned])
def test_both_are_products_whatever_the_strides(way, left, right):
    torch.manual_seed(0)
    a, b, bias = factor(7, 5, left), factor(5, 3, right), torch.randn(3)
    torch.testing.assert_close(way(a, b), a @ b)
    torch.testing.assert_close(way(a, b, None, "relu"), (a @ b).relu())
    if way is straight:
        torch.testing.assert_close(straight(a, b, bias), a @ b + bias)
        torch.testing.assert_close(straight(a, b, bias, "relu"), (a @ b + bias).relu())


@pytest.mark.parametrize("way", ["straight", "turned"])
def test_a_graph_with_its_products_done_otherwise_gives_the_same(always, way):
    always(way)
    torch.manual_seed(1)
    x, weight, bias = torch.randn(4, 6), torch.randn(5, 6), torch.randn(5)

    def net(x, weight, bias):
        return [torch.nn.functional.linear(x, weight, bias).tanh() @ weight, x.t() @ x]

    graph = traced(net, x, weight, bias)
    wanted = graph(x, weight, bias)
    after = rewritten(graph)
    assert not {aten.mm.default, aten.addmm.default} & set(targets(after))
    assert (TURNED if way == "turned" else STRAIGHT) in targets(after)
    torch.testing.assert_close(after(x, weight, bias), wanted)


@pytest.mark.parametrize("particles", [(), (3,)])
def test_a_relu_that_alone_reads_a_product_is_done_with_it(always, particles):
    """Its backward pass reads what it gives, so that nothing needs the product; also by way of a view."""
    always("straight")
    torch.manual_seed(2)
    x, weight, bias = torch.randn(*particles, 4, 6), torch.randn(5, 6), torch.randn(5)

    def net(x, weight, bias):
        weight = weight.detach().requires_grad_()
        found = torch.nn.functional.linear(x, weight, bias).relu().square().sum()
        return [found.detach(), *torch.autograd.grad(found, [weight])]

    graph = traced(net, x, weight, bias)
    assert aten.relu.default in targets(graph)
    wanted = graph(x, weight, bias)
    after = rewritten(graph)
    assert aten.relu.default not in targets(after)
    torch.testing.assert_close(after(x, weight, bias), wanted)


def test_a_relu_beside_another_reader_stays(always):
    always("straight")
    x, weight = torch.randn(4, 6), torch.randn(6, 5)

    def net(x, weight):
        found = x @ weight
        return [found.relu(), found.neg()]

    graph = traced(net, x, weight)
    wanted = graph(x, weight)
    torch.testing.assert_close(rewritten(graph)(x, weight), wanted)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (torch.mm, (torch.randn(4, 6).double(), torch.randn(6, 5).double())),
        (lambda row, b: row.expand(4, 6) @ b, (torch.randn(1, 6), torch.randn(6, 5))),
        (torch.addmm, (torch.randn(4, 1), torch.randn(4, 6), torch.randn(6, 5))),
        (
            lambda c, a, b: torch.addmm(c, a, b, beta=0.5),
            (torch.randn(5), torch.randn(4, 6), torch.randn(6, 5)),
        ),
        (torch.mm, (torch.randn(0, 6), torch.randn(6, 5))),
    ],
    ids=["float64", "a number for a whole row", "a bias by rows", "a weighed bias", "no numbers"],
)
def test_what_the_other_library_cannot_do_stays_as_it_is(always, function, inputs):
    always("straight")
    graph = traced(function, *inputs)
    before, wanted = targets(graph), graph(*inputs)
    after = rewritten(graph)
    assert targets(after) == before
    assert torch.equal(after(*inputs), wanted)


def test_without_onednn_nothing_changes(always):
    always("straight")
    graph = traced(lambda a, b: a @ b, torch.randn(4, 6), torch.randn(6, 5))
    with torch.backends.mkldnn.flags(enabled=False):
        assert rewritten(graph) is graph
        assert targets(graph) == [aten.mm.default]
        assert spared(graph) == 0.0


def test_ways_are_measured_for_shapes_and_strides(monkeypatch):
    """A bias leaves no place for the turned one."""
    asked = []
    monkeypatch.setattr(
        products, "fastest", lambda kind, ways: asked.append((kind, list(ways()))) or ("aten", 0.0)
    )
    a, b = torch.randn(4, 6), torch.randn(6, 5)
    for left, right, bias in ((a, b, None), (a, b.t().contiguous().t(), None), (a, b, torch.zeros(5))):
        assert products.fastest_way(left, right, bias) == ("aten", 0.0)
    kinds = [kind for kind, _ in asked]
    assert all(first != second for first, second in itertools.combinations(kinds, 2))
    assert [ways for _, ways in asked] == [["aten", "straight", "turned"]] * 2 + [["aten", "straight"]]


@pytest.mark.parametrize("bias", [None, torch.randn(5)])
def test_every_way_that_is_measured_runs_and_draws_nothing(bias):
    state = torch.get_rng_state()
    a, b = torch.randn(4, 6), torch.randn(5, 6).t()
    torch.set_rng_state(state)
    for way in products._ways(a, b, bias).values():
        assert way().shape == (4, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_spared_is_summed_over_the_products(always):
    always("straight")
    graph = traced(lambda a, b: (a @ b) @ b.t(), torch.randn(4, 6), torch.randn(6, 5))
    assert spared(graph) == 2.0


@pytest.mark.skipif(
    compiling.missing_compiler(torch.device("cpu")) is not None, reason="there is no C++ compiler"
)
@pytest.mark.parametrize("way", ["straight", "turned"])
def test_compiled_it_gives_the_same(always, way):
    always(way)
    torch.manual_seed(4)
    x, weight, bias = torch.randn(8, 6), torch.randn(5, 6), torch.randn(5)

    def net(x, weight, bias):
        hidden = torch.nn.functional.linear(x, weight, bias).relu()
        return [hidden.t() @ x, hidden @ weight]

    graph = traced(net, x, weight, bias)
    found = compiling.compiled(graph, [x, weight, bias])(x, weight, bias)
    for got, wanted in zip(found, graph(x, weight, bias), strict=True):
        torch.testing.assert_close(got, wanted)
        assert got.stride() == wanted.stride()

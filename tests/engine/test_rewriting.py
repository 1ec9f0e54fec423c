"""What a graph becomes before it is compiled: the same numbers up to rounding."""

from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import binary_cross_entropy_with_logits

from ppvae.engine import rewriting
from ppvae.engine.operations import GATHERED
from ppvae.engine.rewriting import cheaper_bernoulli, gathered_once, rewritten, unflattened_sums

aten = torch.ops.aten


def traced(function, *inputs):
    return make_fx(function, tracing_mode="fake")(*inputs)


def targets(graph) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def after(rewrite, graph):
    rewrite(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def test_the_given_graph_stays_as_it_is():
    """The compiled one is held against it."""
    stored, index = torch.randint(0, 2, (6, 2, 3), dtype=torch.uint8), torch.tensor([4, 1])

    def function(stored, index, logits):
        x = stored.index_select(0, index).float()
        return [-binary_cross_entropy_with_logits(logits, x, reduction="none").reshape(2, -1).sum(-1)]

    inputs = stored, index, torch.randn(2, 2, 3)
    graph = traced(function, *inputs)
    before, wanted = str(graph.graph), graph(*inputs)
    made = rewritten(graph)
    assert str(graph.graph) == before
    assert not {
        aten.binary_cross_entropy_with_logits.default,
        aten.index_select.default,
        aten.view.default,
    } & set(targets(made))
    torch.testing.assert_close(made(*inputs), wanted)


@pytest.mark.parametrize(
    ("shape", "leading", "changes"), [((4, 2, 3), 1, True), ((5, 4, 2, 3), 2, True), ((4, 6), 1, False)]
)
def test_a_sum_over_a_flattened_event_is_one_over_its_dimensions(shape, leading, changes):
    x = torch.randn(shape, dtype=torch.float64)
    graph = traced(lambda x: [(2 * x).view(*x.shape[:leading], -1).sum(-1)], x)
    wanted = graph(x)
    made = after(unflattened_sums, graph)
    torch.testing.assert_close(made(x), wanted)
    assert (aten.view.default not in targets(made)) is changes


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(6, 4).sum(-1),
        lambda x: x.view(2, 12).sum(0),
        lambda x: x.view(2, 12).sum(-1, keepdim=True),
        lambda x: x.view(2, 3, 2, 2).sum(-1),
        lambda x: x.view(2, 12).sum(-1, dtype=torch.float64),
    ],
)
def test_other_sums_of_views_stay(function):
    x = torch.randn(2, 3, 4)
    graph = traced(function, x)
    wanted = graph(x)
    made = after(unflattened_sums, graph)
    assert torch.equal(made(x), wanted)
    assert aten.view.default in targets(made)


def loss_and_slope(logits, x):
    logits = logits.detach().requires_grad_()
    loss = binary_cross_entropy_with_logits(logits, x, reduction="none")
    return [loss.detach(), *torch.autograd.grad(loss.sum(), logits)]


@pytest.mark.parametrize("observed", [0.0, 1.0])
def test_a_bernoulli_is_as_exact_as_float32_can_be(observed):
    """-log p(x) = softplus(-l) at 1, softplus(l) at 0, to 3e-7 of itself even where it is tiny; torch's own
    is off by all of it beyond |l| = 17, where it subtracts l from itself."""
    logits = torch.cat([torch.linspace(-80, 80, 160_001), torch.linspace(-1e-3, 1e-3, 2001)])
    x = torch.full_like(logits, observed)
    made = after(cheaper_bernoulli, traced(loss_and_slope, logits, x))
    assert not {aten.binary_cross_entropy_with_logits.default, aten.sigmoid.default} & set(targets(made))
    loss, slope = made(logits, x)
    exact = logits.double() * (1 - 2 * observed)
    softplus = exact.clamp(min=0) + (-exact.abs()).exp().log1p()
    assert float(((loss.double() - softplus) / softplus).abs().max()) < 3e-7
    wanted = torch.sigmoid(logits.double()) - observed
    assert float((slope.double() - wanted).abs().max()) < 2e-7
    torch.testing.assert_close([loss, slope], loss_and_slope(logits, x), rtol=1e-5, atol=1e-6)


def test_a_bernoulli_of_grey_values_and_without_end():
    logits = torch.tensor([0.0, -0.0, 1e-30, 2.5, -2.5, torch.inf, torch.nan])
    x = torch.tensor([0.3, 0.3, 0.3, 0.9, 0.2, 0.0, 1.0])
    made = after(cheaper_bernoulli, traced(loss_and_slope, logits, x))
    torch.testing.assert_close(made(logits, x), loss_and_slope(logits, x), equal_nan=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: binary_cross_entropy_with_logits(a.double(), b.double(), reduction="none"),
        lambda a, b: binary_cross_entropy_with_logits(a, b),
        lambda a, b: binary_cross_entropy_with_logits(a, b, weight=b, reduction="none"),
        lambda a, b: binary_cross_entropy_with_logits(a, b, pos_weight=b + 1, reduction="none"),
        lambda a, b: a.sigmoid() + b,
    ],
)
def test_other_cross_entropies_and_sigmoids_stay(function):
    a, b = torch.randn(5), torch.rand(5)
    graph = traced(function, a, b)
    before, wanted = targets(graph), graph(a, b)
    made = after(cheaper_bernoulli, graph)
    assert targets(made) == before
    assert torch.equal(made(a, b), wanted)


def test_stored_bytes_are_gathered_apart_from_what_is_made_of_them():
    stored, index = torch.randint(0, 255, (9, 4), dtype=torch.uint8), torch.tensor([8, 0, 3])
    graph = traced(lambda stored, index: stored.index_select(0, index).float() / 255, stored, index)
    wanted = graph(stored, index)
    made = after(gathered_once, graph)
    assert GATHERED in targets(made)
    assert torch.equal(made(stored, index), wanted)
    others = [
        (lambda a, i: a.index_select(0, i), torch.randn(9, 4), index),
        (lambda a, i: a.index_select(1, i), stored, torch.tensor([1, 3])),
    ]
    for function, source, rows in others:
        graph = traced(function, source, rows)
        assert GATHERED not in targets(after(gathered_once, graph))


def test_all_of_it_is_in_what_is_compiled(monkeypatch):
    asked = []
    for name in ("gathered_once", "unflattened_sums", "cheaper_bernoulli", "faster_products"):
        monkeypatch.setattr(rewriting, name, lambda graph, name=name: asked.append(name))
    rewritten(traced(lambda a: a + 1, torch.randn(3)))
    assert sorted(asked) == ["cheaper_bernoulli", "faster_products", "gathered_once", "unflattened_sums"]

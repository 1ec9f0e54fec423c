"""What a tensor was computed from, by autograd's own graph."""

import torch

from ppvae.graphs import graph_leaves


def test_leaves_are_what_a_backward_pass_would_reach():
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    fixed = torch.ones(2)
    product = a * b
    found = {id(leaf) for leaf in graph_leaves([product.exp() + product + fixed, c])}
    assert found == {id(a), id(b), id(c)}
    assert {id(leaf) for leaf in graph_leaves([(a.detach() * b).sum()])} == {id(b)}
    assert not list(graph_leaves([fixed, a.detach()]))

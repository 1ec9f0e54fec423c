"""Path derivatives: the gradient that flows to the guide through its draws alone.

For a guide that draws z_i = T_i(eps_i; parents of z_i, phi),

    sum_i (d log w / d z_i) d z_i / d phi,

where each d log w / d z_i is a *partial* derivative, at draws that know nothing of how they were made, and
d z_i / d phi is total: z_2 moves when z_1 does. What log q's own parameters would add is left out.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ppvae.terms import Terms


def along_paths(terms: Terms, signal: Tensor) -> Tensor:
    """A scalar of value zero whose gradient is that of `signal` through the draws alone.

    `terms` are scored with `leaves=True`; `signal` is a scalar made of them, such as
    `(weight.detach() * terms.log_weight).sum()`. Several layers are chained from the last to the first, each
    through the piece of graph between it and the draws before it: no second pass of the guide is needed.
    """
    ends = [end for site in terms.sites.values() for end in site.path]
    if not ends or not torch.is_grad_enabled() or not signal.requires_grad:
        return torch.zeros_like(signal).detach()
    leaves = [leaf for leaf, _ in ends]
    pulls = list(torch.autograd.grad(signal, leaves, retain_graph=True, allow_unused=True))
    surrogate = torch.zeros_like(signal).detach()
    for i in reversed(range(len(ends))):
        pull, draw = pulls[i], ends[i][1]
        if pull is None or not draw.requires_grad:
            continue
        part = (draw * pull).sum()
        surrogate = surrogate + part
        if i:
            further = torch.autograd.grad(part, leaves[:i], retain_graph=True, allow_unused=True)
            for j, more in enumerate(further):
                before = pulls[j]
                if more is not None:
                    pulls[j] = more if before is None else before + more
    return surrogate - surrogate.detach()


def with_penalty_paths(terms: Terms) -> Terms:
    """A penalty on a draw moves the guide through it: the graph that the leaves cut is put back."""
    joined = {
        name: replace(penalty, value=penalty.value + along_paths(terms, penalty.value))
        for name, penalty in terms.penalties.items()
    }
    return replace(terms, penalties=joined)

"""E[f(log w_1, ..., log w_K)], z_k ~ q(z | x), and its gradient, without sampling.

    exact ELBO      f is a mean: the pair's own `elbo`, or one draw in place of K (linearity)
    sum             S nodes a draw: over all multisets of K nodes where f is symmetric, over all K-tuples
                    where it is not; a sum over joint states is exact, a Gauss-Hermite grid nearly so
    low discrepancy Gaussian latents with too many tuples: scrambled Sobol nets, whose spread is the error

The gradient is total: E_q[f] is differentiated as a function of all parameters, of those of q, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.estimators.base import Functional
from ppvae.oracles.nodes import (
    MAX_NODES,
    Nodes,
    Unknown,
    multisets,
    places,
    product,
    reals,
    scattered,
    states,
    tuples,
)

MAX_TUPLES = 200_000
CHUNK = 20_000
GRIDS = (64, 48, 32, 24, 16)
"""Gauss-Hermite points a coordinate: the finest that fits. Sixteen leave an error of about 1e-6."""
NETS, NET = 8, 32_768
"""Scrambled nets, and the draws of each: points times particles."""


@dataclass(frozen=True)
class Truth:
    """What an estimate is held against."""

    value: Tensor
    """Per datum, (B,), in nats."""
    gradient: dict[str, Tensor]
    """Of the mean over the data, by parameter name."""
    value_error: Tensor
    """Its own standard error, (B,); 0 where it is exact."""
    gradient_error: dict[str, Tensor]


def truth(built: Built, batch: Mapping[str, Tensor], functional: Functional, particles: int) -> Truth:
    """E[functional] of K draws and its gradient.

    Raises:
        Unknown: neither sum nor quadrature is small enough.
    """
    if is_mean(functional, particles):
        if built.pair.elbo is not None:
            value = built.pair.elbo(built.model, built.guide, built.inputs(batch))
            return _exact(built, value)
        particles = 1
    found = places(built, batch)
    symmetric = is_symmetric(functional, particles)
    counted = _size(states(found), reals(found), particles, symmetric)
    if counted is not None:
        return _exact(built, _sum(product(built, batch, found, counted), functional, particles, symmetric))
    if states(found) > 1:
        raise Unknown(f"its {states(found)} joint states have too many combinations of {particles}")
    points = 2 ** int(math.log2(max(NET // particles, 256)))  # nets are balanced at powers of two
    nets = [
        _exact(built, _mean_over_net(scattered(built, batch, found, particles, points, seed), functional))
        for seed in range(NETS)
    ]
    value, value_error = _mean_and_error([net.value for net in nets])
    parts = {name: _mean_and_error([net.gradient[name] for net in nets]) for name in nets[0].gradient}
    return Truth(
        value, {n: mean for n, (mean, _) in parts.items()}, value_error, {n: e for n, (_, e) in parts.items()}
    )


def evidence(built: Built, batch: Mapping[str, Tensor]) -> Tensor:
    """log p(x), (B,): the pair's own, or log E_q[w] over the nodes.

    Raises:
        Unknown: neither is there.
    """
    with torch.no_grad():
        if built.pair.evidence is not None:
            return built.pair.evidence(built.model, built.inputs(batch))
        found = places(built, batch)
        points = _size(states(found), reals(found), 1, True)
        if points is None:
            raise Unknown("its evidence is not known")
        nodes = product(built, batch, found, points)
        return (nodes.log_weight + nodes.weight.log()).logsumexp(0)


def is_mean(functional: Functional, particles: int) -> bool:
    """Whether f(log w) = (1/K) sum_k log w_k, by trial."""
    return _holds(lambda x: (functional(x), x.mean(0)), particles)


def is_symmetric(functional: Functional, particles: int) -> bool:
    """Whether f does not depend on the order of the draws, by trial."""

    def flipped_and_rolled(x: Tensor) -> tuple[Tensor, Tensor]:
        orders = (x, x.flip(0), x.roll(1, 0), x[torch.randperm(len(x), generator=_generator())])
        return torch.cat([functional(x)] * 3), torch.cat([functional(order) for order in orders[1:]])

    return _holds(flipped_and_rolled, particles)


def is_homogeneous(functional: Functional, particles: int) -> bool:
    """Whether f(s log w) = s f(log w), by trial: then a scale of log w may stand outside."""
    return _holds(lambda x: (functional(3.0 * x), 3.0 * functional(x)), particles)


def _holds(sides: Callable[[Tensor], tuple[Tensor, Tensor]], particles: int) -> bool:
    trial = 3.0 * torch.randn(particles, 32, dtype=torch.float64, generator=_generator())
    left, right = sides(trial)
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-9, atol=1e-9)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _size(discrete: int, real: int, particles: int, symmetric: bool) -> int | None:
    """Grid points a coordinate such that all tuples can be summed; None where there are too many."""
    for points in GRIDS if real else (1,):
        size = discrete * points**real
        count = math.comb(size + particles - 1, particles) if symmetric else size**particles
        if size <= MAX_NODES and count <= MAX_TUPLES:
            return points
    return None


def _sum(nodes: Nodes, functional: Functional, particles: int, symmetric: bool) -> Tensor:
    """sum over tuples of prod_k weight_k f(log w), (B,), chunk by chunk; attached to the nodes."""
    size = len(nodes.log_weight)
    index, orders = (multisets if symmetric else tuples)(size, particles)
    return _Sum.apply(nodes.log_weight, nodes.weight, index, orders, functional)  # type: ignore[return-value]


class _Sum(torch.autograd.Function):
    """The sum over tuples without keeping their graph: one chunk of it exists at a time."""

    @staticmethod
    def forward(ctx, log_weight, weight, index, orders, functional):
        total = log_weight.new_zeros(log_weight.shape[1])
        slopes = []
        with torch.enable_grad():
            leaves = [log_weight.detach().requires_grad_(), weight.detach().requires_grad_()]
            slopes = [torch.zeros_like(log_weight), torch.zeros_like(weight)]
            for rows, order in zip(index.split(CHUNK), orders.split(CHUNK), strict=True):
                at = [leaf[rows.T] for leaf in leaves]  # (K, T, B)
                value = functional(at[0].flatten(1)).reshape(at[0].shape[1:])
                part = (order.to(value).unsqueeze(1) * at[1].prod(0) * value).sum(0)
                total = total + part.detach()
                found = torch.autograd.grad(part.sum(), leaves, allow_unused=True)
                slopes = [s if g is None else s + g for s, g in zip(slopes, found, strict=True)]
        ctx.save_for_backward(*slopes)
        return total

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        # Each datum's value depends on its own column alone.
        return *(slope * grad for slope in ctx.saved_tensors), None, None, None


def _mean_over_net(log_weight: Tensor, functional: Functional) -> Tensor:
    particles, draws, rows = log_weight.shape
    return functional(log_weight.reshape(particles, draws * rows)).reshape(draws, rows).mean(0)


def _exact(built: Built, value: Tensor) -> Truth:
    named = {name: p for name, p in built.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value.mean(), list(named.values()), allow_unused=True)
    gradient = {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(named.items(), found, strict=True)
    }
    zeros = {name: torch.zeros_like(g) for name, g in gradient.items()}
    return Truth(value.detach(), gradient, torch.zeros_like(value.detach()), zeros)


def _mean_and_error(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    stacked = torch.stack(values)
    return stacked.mean(0), stacked.std(0) / math.sqrt(len(stacked))

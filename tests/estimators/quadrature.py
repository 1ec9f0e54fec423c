"""Means over the guide's noise without sampling: every row of a batch is one node of a Gauss-Hermite grid.

A row's noise is fixed, and every parameter has one value a row, so that one backward pass gives the gradient
of each node; their weighted sum is the mean gradient of one datum, as exact as the grid is fine.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.build import build
from ppvae.built import Built
from ppvae.estimators import Estimator
from ppvae.pair import Pair
from tests.toys import gaussian_model, ones


class Fixed(dist.Normal):
    """A Normal whose one draw is loc + scale * noise."""

    def __init__(self, loc, scale, noise: Tensor):
        super().__init__(loc, scale, validate_args=False)
        self.noise = noise

    def expand(self, batch_shape, _instance=None):
        return Fixed(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.noise)

    def rsample(self, sample_shape=()):
        assert self.noise.shape == self.batch_shape
        return self.loc + self.scale * self.noise


class Grid:
    """`nodes` points a dimension for K particles of `layers` latents each.

    `noise[i]` is that of layer i, (K, rows), or (rows,) for K = 1; `weight`, (rows,), sums to one.
    """

    def __init__(self, nodes: int, particles: int, layers: int = 1):
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        weights = weights / weights.sum()
        dims = particles * layers
        spread = torch.tensor(points).expand(dims, -1)
        self.weight = torch.ones(())
        for _ in range(dims):
            self.weight = (self.weight.unsqueeze(-1) * torch.tensor(weights)).flatten()
        grid = torch.stack([axis.flatten() for axis in torch.meshgrid(*spread, indexing="ij")])
        by_layer = grid.unflatten(0, (layers, particles))
        self.noise = [layer if particles > 1 else layer[0] for layer in by_layer]
        self.rows, self.particles = grid.shape[1], particles


class OneLayer(nn.Module):
    """z ~ N(loc, scale^2), x | z ~ N(tanh(slope z), noise^2): a learned prior and a curved likelihood."""

    def __init__(self, rows: int = 1):
        super().__init__()
        start = {"loc": 0.2, "log_scale": -0.1, "slope": 0.9, "log_noise": -0.1}
        _rows_of(self, start, rows)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))
            pyro.sample("x", dist.Normal((self.slope * z).tanh(), self.log_noise.exp()), obs=x)


class OneLayerGuide(nn.Module):
    """q(z) = N(loc, scale^2)."""

    def __init__(self, model, grid: Grid, rows: int = 1):
        super().__init__()
        self.noise = grid.noise
        _rows_of(self, {"loc": 0.4, "log_scale": -0.3}, rows)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", Fixed(self.loc, self.log_scale.exp(), self.noise[0]))


class TwoLayers(nn.Module):
    """z2 ~ N(loc2, scale2^2), z1 | z2 ~ N(tanh(slope z2), scale1^2), x | z1 ~ N(gain z1, noise^2)."""

    def __init__(self, rows: int = 1):
        super().__init__()
        start = {"loc2": 0.1, "log_scale2": 0.1, "slope": 0.8, "log_scale1": 0.1, "gain": 0.7}
        _rows_of(self, start, rows)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.loc2, self.log_scale2.exp()))
            z1 = pyro.sample("z1", dist.Normal((self.slope * z2).tanh(), self.log_scale1.exp()))
            pyro.sample("x", dist.Normal(self.gain * z1, 0.8), obs=x)


class TwoLayersGuide(nn.Module):
    """q(z1) = N(loc1, scale1^2), q(z2 | z1) = N(loc2 + slope tanh z1, scale2^2): the other way round."""

    def __init__(self, model, grid: Grid, rows: int = 1):
        super().__init__()
        self.noise = grid.noise
        start = {"loc1": 0.3, "log_scale1": -0.4, "loc2": 0.2, "slope": 0.5, "log_scale2": -0.1}
        _rows_of(self, start, rows)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", Fixed(self.loc1, self.log_scale1.exp(), self.noise[0]))
            pyro.sample("z2", Fixed(self.loc2 + self.slope * z1.tanh(), self.log_scale2.exp(), self.noise[1]))


class GaussianNodes(nn.Module):
    """The guide of the Gaussian toys, q(z) = N(loc, scale^2), on a grid."""

    def __init__(self, model, grid: Grid, rows: int = 1, start: tuple[float, float] = (0.0, 1.0)):
        super().__init__()
        self.noise = grid.noise
        _rows_of(self, {"loc": start[0], "log_scale": math.log(start[1])}, rows)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", Fixed(self.loc, self.log_scale.exp(), self.noise[0]))


def _rows_of(module: nn.Module, start: dict[str, float], rows: int) -> None:
    for name, value in start.items():
        setattr(module, name, nn.Parameter(torch.full((rows,), value)))


class Exact:
    """A pair on a grid: means of estimates and of their gradients, without error."""

    def __init__(self, grid: Grid, layers: int = 1, toy: tuple[float, float] | None = None):
        self.grid = grid
        if toy is not None:  # the Gaussian toy with that guide, x = 1
            pair = Pair(model=gaussian_model, guide=GaussianNodes, data=None)
            self.built: Built = build(pair, rows=grid.rows, grid=grid, start=toy)
            self.batch = ones(grid.rows)
            return
        parts = (OneLayer, OneLayerGuide) if layers == 1 else (TwoLayers, TwoLayersGuide)
        self.built = build(Pair(model=parts[0], guide=parts[1], data=None), rows=grid.rows, grid=grid)
        self.batch = {"x": torch.full((grid.rows,), 0.7)}

    def mean(self, values: Tensor) -> Tensor:
        """The mean of one value a row."""
        return (self.grid.weight * values).sum()

    def bound(self, estimator: Estimator) -> Tensor:
        """The mean of the reported bound."""
        found = estimator.estimate(self.built, self.batch).bound
        assert found is not None
        return self.mean(found.detach())

    def each(self, estimator: Estimator) -> dict[str, Tensor]:
        """By parameter, the gradient that each node's estimate climbs, (rows,)."""
        self.built.zero_grad()
        estimator(self.built)(self.batch).backward()
        return self._found(-self.grid.rows)

    def climbed(self, estimator: Estimator) -> dict[str, Tensor]:
        """By parameter, the mean of the gradient that the estimator climbs."""
        return {name: self.mean(gradient) for name, gradient in self.each(estimator).items()}

    def truth(self, functional: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """By parameter, the gradient of the mean of a functional of the log-weights."""
        self.built.zero_grad()
        log_weight = self.built.score(self.batch, self.grid.particles).log_weight
        self.mean(functional(log_weight)).backward()
        return {name: gradient.sum() for name, gradient in self._found(1).items()}

    def _found(self, factor: float) -> dict[str, Tensor]:
        found = {}
        for name, p in self.built.named_parameters():
            assert p.grad is not None, name
            found[name] = p.grad * factor
        return found


def apart(found: dict[str, Tensor], truth: dict[str, Tensor], part: str = "") -> float:
    """The largest difference among the parameters whose name begins so."""
    names = [name for name in truth if name.startswith(part)]
    assert names
    return max(float((found[name] - truth[name]).abs().max()) for name in names)


def pairs_of(*factors):
    """Every combination, as pytest.mark.parametrize takes them."""
    return list(itertools.product(*factors))

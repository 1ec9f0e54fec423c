"""The latents of a pair at given places: every joint state, a quadrature's nodes, low-discrepancy points.

A discrete latent is put at each of its values, and its probability is q's own, attached to the guide's
parameters. A Gaussian latent is put at T(eps) = loc + scale eps for fixed eps, so that derivatives flow
through the draw. The product of all places of a datum is its nodes: S log-weights whose weighted sums are
expectations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from ppvae.built import Built
from ppvae.drawing import Drawn
from ppvae.terms import Terms
from ppvae.wrapped import innermost

MAX_NODES = 4096
DISCRETE = ("Bernoulli", "Categorical", "OneHotCategorical")
NORMAL = ("Normal", "MultivariateNormal", "LowRankMultivariateNormal")


class Unknown(Exception):
    """No exact expectation is at hand; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where one latent of one datum lies: so many coordinates, each one of `values` or a real number."""

    name: str
    coordinates: int
    values: int | None
    """How many values each coordinate has; None: it is Gaussian."""


@dataclass(frozen=True)
class Nodes:
    """S points of the latent space for each datum."""

    log_weight: Tensor
    """log w at each, (S, B)."""
    weight: Tensor
    """The probability under q that each stands for, (S, B); it sums to one."""


def places(built: Built, batch: Mapping[str, Tensor]) -> list[Place]:
    """The latents of one datum, in the order in which the guide draws them.

    Raises:
        Unknown: a latent is neither discrete with few values nor Gaussian, or not of one datum alone.
    """
    found: dict[str, Distribution] = {}
    with torch.no_grad():
        terms = built.score(batch, enumerated=_summed_in_model(built, batch), draw=_keep(found))
    if terms.has_global:
        raise Unknown("it has latents outside the data plate")
    if any(site.kind == "bound" for site in terms.sites.values()):
        raise Unknown("one of its sites is itself an estimate")
    return [_place(name, q) for name, q in found.items()]


def _keep(found: dict[str, Distribution]):
    def draw(name: str, q: Distribution) -> None:
        found[name] = q

    return draw


def _summed_in_model(built: Built, batch: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Latents that the guide does not know: the log-weight has them summed out."""
    if not built.enumerated:
        return ()
    with torch.no_grad():
        return tuple(name for name in built.enumerated if name not in built.score(batch).expected)


def _place(name: str, q: Distribution) -> Place:
    base = innermost(q)
    kind = type(base).__name__
    inner = base.batch_shape[: len(q.batch_shape) - 1] + base.batch_shape[len(q.batch_shape) :]
    positions = math.prod(inner)
    if kind in DISCRETE:
        return Place(name, positions, len(base.enumerate_support(expand=False)))
    if kind == "Normal":
        return Place(name, positions, None)
    if kind in NORMAL:
        return Place(name, positions * base.event_shape[-1], None)
    raise Unknown(f"{name!r} is drawn from a {kind}, which is neither enumerated nor Gaussian")


def states(found: list[Place]) -> int:
    """How many joint states the discrete latents of one datum have."""
    return math.prod(place.values**place.coordinates for place in found if place.values is not None)


def reals(found: list[Place]) -> int:
    """How many Gaussian coordinates one datum has."""
    return sum(place.coordinates for place in found if place.values is None)


def product(built: Built, batch: Mapping[str, Tensor], found: list[Place], points: int) -> Nodes:
    """Every joint state times a Gauss-Hermite grid of `points` a Gaussian coordinate."""
    eps, weights = np.polynomial.hermite_e.hermegauss(points)
    like = next(iter(batch.values()))
    table = like.new_tensor(eps)
    log_weights = (like.new_tensor(weights) / math.sqrt(2 * math.pi)).log()
    sizes = [place.values or points for place in found for _ in range(place.coordinates)]
    if math.prod(sizes) > MAX_NODES:
        raise Unknown(f"its latents have {math.prod(sizes)} joint places, more than {MAX_NODES}")
    digits = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes))
    columns = list(digits.split([place.coordinates for place in found], dim=1))
    where = {}
    log_prob = like.new_zeros(len(digits), 1)
    for place, index in zip(found, columns, strict=True):
        if place.values is None:
            where[place.name] = table[index]
            log_prob = log_prob + log_weights[index].sum(1, keepdim=True)
        else:
            where[place.name] = index
    terms = at(built, batch, where)
    for place in found:
        if place.values is not None:
            law = terms.sites[place.name].law
            assert law is not None
            log_prob = log_prob + law
    return Nodes(terms.log_weight, log_prob.exp().expand_as(terms.log_weight))


def scattered(
    built: Built, batch: Mapping[str, Tensor], found: list[Place], particles: int, draws: int, seed: int
) -> Tensor:
    """log w, (K, N, B), at N scrambled Sobol points of the noise of K draws (Owen 1997).

    Raises:
        Unknown: there are no Sobol points of so many dimensions.
    """
    size, engine = reals(found), torch.quasirandom.SobolEngine
    if particles * size > engine.MAXDIM:
        raise Unknown(f"{particles} draws of {size} reals are too many for Sobol points, use fewer particles")
    engine = engine(particles * size, scramble=True, seed=seed)
    like = next(iter(batch.values()))
    uniform = engine.draw(draws, dtype=like.dtype).clamp(1e-12, 1 - 1e-12)
    eps = torch.special.ndtri(uniform).reshape(draws * particles, size)
    columns = eps.split([place.coordinates for place in found], dim=1)
    where = {place.name: column for place, column in zip(found, columns, strict=True)}
    log_weight = at(built, batch, where).log_weight
    return log_weight.reshape(draws, particles, -1).transpose(0, 1)


def at(built: Built, batch: Mapping[str, Tensor], where: Mapping[str, Tensor]) -> Terms:
    """The terms at given places: by site (S, coordinates), of value numbers or standard normal noise."""

    def draw(name: str, q: Distribution) -> Drawn | None:
        return _put(q, where[name]) if name in where else None

    if not built.vectorize:
        raise Unknown("its particles run one after another")
    particles = len(next(iter(where.values())))
    return built.score(batch, particles, enumerated=_summed_in_model(built, batch), draw=draw)


def _put(q: Distribution, at: Tensor) -> Drawn:
    """q's latent at these coordinates, the same for every datum."""
    base = innermost(q)
    data = len(q.batch_shape) - 1  # batch dims: particles, inner plates, data, and what is reinterpreted
    shape = [1 if i == data else size for i, size in enumerate(base.batch_shape)]
    kind = type(base).__name__
    if kind in DISCRETE:
        support = base.enumerate_support(expand=False)
        values = support.reshape(len(support), *base.event_shape)[at.reshape(shape)]
        return Drawn(values.expand(*base.batch_shape, *base.event_shape).clone(), "score")
    if kind == "Normal":
        return Drawn(base.loc + base.scale * at.reshape(shape), "reparameterized")  # type: ignore[attr-defined]
    eps = at.reshape(*shape, *base.event_shape).expand(*base.batch_shape, *base.event_shape)
    tril = torch.linalg.cholesky(base.covariance_matrix)  # type: ignore[attr-defined]
    return Drawn(base.mean + (tril @ eps.unsqueeze(-1)).squeeze(-1), "reparameterized")


def multisets(size: int, particles: int) -> tuple[Tensor, Tensor]:
    """(all multisets of `particles` out of `size` nodes, (T, K); in how many orders each occurs, (T,))."""
    flat = itertools.chain.from_iterable(itertools.combinations_with_replacement(range(size), particles))
    count = math.comb(size + particles - 1, particles)
    index = np.fromiter(flat, dtype=np.int64, count=count * particles).reshape(count, particles)
    # K! / prod (multiplicities)!: the j-th occurrence of a node in a sorted row contributes a factor j.
    log_orders = np.full(count, math.lgamma(particles + 1))
    run = np.ones(count)
    for k in range(1, particles):
        run = np.where(index[:, k] == index[:, k - 1], run + 1, 1.0)
        log_orders -= np.log(run)
    return torch.from_numpy(index), torch.from_numpy(np.exp(log_orders))


def tuples(size: int, particles: int) -> tuple[Tensor, Tensor]:
    """(all size^K ordered choices, (T, K); ones, (T,))."""
    index = torch.cartesian_prod(*(torch.arange(size) for _ in range(particles))).reshape(-1, particles)
    return index, torch.ones(len(index), dtype=torch.float64)

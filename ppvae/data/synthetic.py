"""Small sets drawn from laws that are known: `truth` holds their parameters.

Every function draws `n` training data, and n // 5 (at least one) more for each of valid and test from
the same law, all independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ppvae.data.arrays import Parts, from_parts
from ppvae.data.dataset import Dataset
from ppvae.errors import UsageError


def ppca_toy(n: int = 1000, seed: int = 0) -> Dataset:
    """Probabilistic PCA, float64 of shape (10,): z ~ N(0, I_3), x | z ~ N(loc + weight z, variance I_10).

    truth: `loc` (10,), `weight` (10, 3), `variance` (); hence p(x) = N(loc, weight weight' + variance I),
    from which log p(x) follows exactly. Source: Tipping, Bishop 1999.
    """
    rng = _rng(n, seed)
    loc, weight, variance = rng.standard_normal(10), rng.standard_normal((10, 3)), 0.25
    rows = _rows(n)
    z = rng.standard_normal((rows, 3))
    x = loc + z @ weight.T + math.sqrt(variance) * rng.standard_normal((rows, 10))
    truth = {"loc": loc, "weight": weight, "variance": np.array(variance)}
    return _made("ppca_toy", n, {"x": x}, truth, "draws from a known probabilistic PCA, D = 10, q = 3")


def gaussian_mixture_2d(n: int = 1000, seed: int = 0, components: int = 8) -> Dataset:
    """A ring of Gaussians in the plane, float32 of shape (2,): y uniform, x | y ~ N(loc[y], scale^2 I).

    truth: `probs` (K,), `loc` (K, 2) on the circle of radius 2, `scale` () = 0.2.
    """
    rng = _rng(n, seed)
    angle = 2 * np.pi * np.arange(components) / components
    loc, scale = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1), 0.2
    y = rng.integers(components, size=_rows(n))
    x = (loc[y] + scale * rng.standard_normal((len(y), 2))).astype(np.float32)
    truth = {"probs": np.full(components, 1 / components), "loc": loc, "scale": np.array(scale)}
    description = f"{components} Gaussians on a ring"
    classes = tuple(map(str, range(components)))
    return _made("gaussian_mixture_2d", n, {"x": x, "y": y}, truth, description, classes)


def two_moons(n: int = 1000, seed: int = 0) -> Dataset:
    """Two interleaved half circles, float32 of shape (2,), with Gaussian noise of scale 0.1; y says which.

    truth: `scale` (). t ~ U(0, pi); y = 0: (cos t, sin t), y = 1: (1 - cos t, 1/2 - sin t).
    """
    rng = _rng(n, seed)
    scale, rows = 0.1, _rows(n)
    y, angle = rng.integers(2, size=rows), np.pi * rng.random(rows)
    sign = 1.0 - 2.0 * y
    x = np.stack([y + sign * np.cos(angle), 0.5 * y + sign * np.sin(angle)], axis=1)
    x = (x + scale * rng.standard_normal((rows, 2))).astype(np.float32)
    truth = {"scale": np.array(scale)}
    return _made("two_moons", n, {"x": x, "y": y}, truth, "two interleaved half circles", ("upper", "lower"))


def bars(n: int = 1000, seed: int = 0, side: int = 8) -> Dataset:
    """Bits of shape (1, side, side): each row and each column is a bar with probability 1 / side.

    truth: `probs` () = 1 / side, the probability of each of the 2 side bars. Source: Foldiak 1990.
    """
    rng = _rng(n, seed)
    across, down = rng.random((2, _rows(n), side)) < 1 / side
    x = (across[:, None, :, None] | down[:, None, None, :]).astype(np.uint8)
    truth = {"probs": np.array(1 / side)}
    return _made("bars", n, {"x": x}, truth, f"independent horizontal and vertical bars, {side} x {side}")


def noisy_or_toy(n: int = 1000, seed: int = 0) -> Dataset:
    """A noisy-or network of two causes, bits of shape (6,): z_j ~ Bernoulli(prior_j) and x_d is off with
    probability off_d prod_j fail_dj^z_j.

    truth: `prior` (2,), `fail` (6, 2), `off` (6,). Symptoms 0, 1 follow the first cause, 4, 5 the second, and
    2, 3 either of them, so that given x the causes depend on each other. Source: Pearl 1988.
    """
    rng = _rng(n, seed)
    prior, off = np.array([0.3, 0.4]), np.full(6, 0.95)
    fail = np.array([[0.1, 1.0], [0.2, 1.0], [0.2, 0.2], [0.3, 0.1], [1.0, 0.2], [1.0, 0.1]])
    z = rng.random((_rows(n), 2)) < prior
    silent = off * np.where(z[:, None], fail, 1.0).prod(-1)
    x = (rng.random(silent.shape) >= silent).astype(np.uint8)
    truth = {"prior": prior, "fail": fail, "off": off}
    return _made(
        "noisy_or_toy", n, {"x": x}, truth, "draws from a known noisy-or network, 2 causes of 6 bits"
    )


def _rng(n: int, seed: int) -> np.random.Generator:
    if n < 2:
        raise UsageError(f"n={n} is too few; draw at least 2 data")
    return np.random.Generator(np.random.PCG64(seed))


def _rows(n: int) -> int:
    return n + 2 * max(1, n // 5)


def _made(
    name: str,
    n: int,
    fields: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    description: str,
    classes: tuple[str, ...] = (),
) -> Dataset:
    """The first n rows to train on, the rest in equal halves; the truth as tensors of x's dtype."""
    more = max(1, n // 5)
    rows = {"train": slice(0, n), "valid": slice(n, n + more), "test": slice(n + more, None)}
    parts: Parts = {split: {key: v[part] for key, v in fields.items()} for split, part in rows.items()}
    dtype = torch.float64 if fields["x"].dtype == np.float64 else torch.float32
    known: Any = {key: torch.as_tensor(value).to(dtype) for key, value in truth.items()}
    return from_parts(
        name,
        parts,
        truth=known,
        description=description,
        source="drawn by ppvae",
        licence="MIT",
        classes=classes,
    )

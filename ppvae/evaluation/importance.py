"""log p(x) and its weights by importance sampling from the guide, in chunks that fit memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.errors import PairError
from ppvae.estimators.base import weights_obstacle
from ppvae.shapes import Float

CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**27}
"""Numbers that one chunk may hold over its particles and data, in the batch's fields or the widest layer: on
a CPU small enough to stay near the caches (8 MiB in float32), on a GPU large enough to fill it, with room for
the nets' activations in both."""


def log_likelihood(built: Built, batch: dict[str, Tensor], k: int) -> Float[Tensor, " B"]:
    """log (1/K) sum_k p(x, z_k) / q(z_k | x) of each datum, in nats; a lower bound in expectation, tight as
    K grows.

    Call inside `evaluating(built, seed)`. Weights are accumulated by a streaming logsumexp over chunks of
    particles, and never kept.

    Raises:
        PairError: the pair's weights are not one number per datum and draw (global latents, scales).
    """
    at_once, particles = cut(built, batch, k)
    return torch.cat([_streamed(built, part, k, particles) for part in _parts(batch, at_once)])


def log_weights(built: Built, batch: dict[str, Tensor], k: int) -> Float[Tensor, "K B"]:
    """log p(x, z_k) - log q(z_k | x) of k draws for each datum, in nats, all kept: k numbers a datum.

    Call inside `evaluating(built, seed)`; for the same seed the draws are those of `log_likelihood`.

    Raises:
        PairError: as `log_likelihood`.
    """
    at_once, particles = cut(built, batch, k)
    parts = [torch.cat(list(_chunks(built, part, k, particles))) for part in _parts(batch, at_once)]
    return torch.cat(parts, dim=1)


def cut(built: Built, batch: dict[str, Tensor], k: int) -> tuple[int, int]:
    """How many data of the batch, and how many of k particles of each, are scored at once."""
    rows = max((len(v) for v in batch.values()), default=1)
    # A net may be much wider than the data.
    width = max((p.shape[0] for p in built.parameters() if p.dim()), default=1)
    numel = max(width, sum(v.numel() for v in batch.values()) // rows)
    budget = CHUNK_ELEMENTS["cuda" if built.device is not None and built.device.type == "cuda" else "cpu"]
    at_once = max(1, min(rows, budget // numel))
    return at_once, max(1, min(k, budget // (numel * at_once)))


def _parts(batch: dict[str, Tensor], at_once: int) -> list[dict[str, Tensor]]:
    rows = max((len(v) for v in batch.values()), default=1)
    return [{name: v[i : i + at_once] for name, v in batch.items()} for i in range(0, rows, at_once)]


def _streamed(built: Built, batch: dict[str, Tensor], k: int, chunk: int) -> Tensor:
    total: Tensor | None = None
    for weights in _chunks(built, batch, k, chunk):
        part = weights.logsumexp(0)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return total - math.log(k)


def _chunks(built: Built, batch: dict[str, Tensor], k: int, chunk: int) -> Iterator[Tensor]:
    """The log-weights of k draws, `chunk` of them at a time, (chunk, B) and less in the last."""
    done = 0
    while done < k:
        terms = built.score(batch, min(chunk, k - done))
        obstacle = weights_obstacle(terms)
        if obstacle:
            raise PairError(f"importance sampling {obstacle}")
        yield terms.log_weight
        done += terms.particles

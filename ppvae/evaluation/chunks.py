"""Cut a batch into parts of which so many copies fit memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ppvae.built import Built
from ppvae.evaluation.importance import cut


def row_chunks(built: Built, batch: dict[str, Tensor], copies: int) -> Iterator[dict[str, Tensor]]:
    """Parts of at least one datum, in order, of which all `copies` are run at once: chains stay together."""
    rows, particles = cut(built, batch, copies)
    at_once = max(1, rows * particles // copies)
    for i in range(0, max((len(v) for v in batch.values()), default=1), at_once):
        yield {name: value[i : i + at_once] for name, value in batch.items()}

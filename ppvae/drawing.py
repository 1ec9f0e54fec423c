"""How the guide's draws come about: an estimator may make them itself, and may cut the graph behind them.

By default a latent is drawn from its own distribution, attached to the guide's parameters. A `Draw` replaces
that for some sites (antithetic or relaxed draws, detached ones). `leaves=True` hands each differentiable draw
on as a leaf of the graph, so that partial derivatives in the latents can be taken; the attached draw is kept
beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical
from torch.nn.functional import logsigmoid

from ppvae.errors import PairError


@dataclass(frozen=True)
class Drawn:
    """A draw that an estimator made: of the shape that q itself would have drawn, particles leftmost."""

    value: Tensor
    how: Literal["reparameterized", "score", "relaxed"]
    """`relaxed`: a point between the values of a discrete q, scored by `relaxed_log_prob`."""
    noise: Any = None
    """What the estimator needs again, such as the uniform numbers behind the value."""


DRAWN, PATH = "_ppvae_drawn", "_ppvae_path"
"""Where a traced site keeps its `Drawn`, and its pairs (leaf, attached draw)."""

Draw = Callable[[str, Any], Drawn | None]
"""`draw(name, q)`: the draw of that site, or None to let q draw by itself."""


class Drawing(Messenger):
    """Applies a `Draw` to every latent of the guide, and cuts the graph behind each if asked to."""

    def __init__(self, draw: Draw | None, leaves: bool):
        super().__init__()
        self.draw, self.leaves = draw, leaves

    def _pyro_sample(self, msg) -> None:
        q = msg["fn"]
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg) or type(q).__name__ == "Unit":
            return
        if msg["infer"].get("enumerate") == "parallel" or msg["infer"].get("_deterministic"):
            return
        drawn = self.draw(msg["name"], q) if self.draw is not None else None
        value = drawn.value if drawn is not None else q(*msg["args"], **msg["kwargs"])
        path: tuple[tuple[Tensor, Tensor], ...] = ()
        attached = q.has_rsample if drawn is None else drawn.how != "score"
        if self.leaves and attached and torch.is_grad_enabled():
            leaf = value.detach().requires_grad_()
            path, value = ((leaf, value),), leaf
        msg["infer"] = {**msg["infer"], DRAWN: drawn, PATH: path}
        msg["value"], msg["done"] = value, True


def relaxed_log_prob(q: Distribution, value: Tensor) -> Tensor:
    """log q extended linearly between the values of a discrete distribution, where it is log q itself.

    Bernoulli: v log p + (1 - v) log(1 - p); OneHotCategorical: sum_c v_c log p_c. Of q's batch shape.

    Raises:
        PairError: another distribution.
    """
    name = type(q).__name__
    if name == "Independent":
        inner = relaxed_log_prob(q.base_dist, value)  # type: ignore[attr-defined]
        return sum_rightmost(inner, q.reinterpreted_batch_ndims)  # type: ignore[attr-defined]
    if name == "MaskedDistribution":
        return scale_and_mask(relaxed_log_prob(q.base_dist, value), mask=q._mask)  # type: ignore[attr-defined]
    if isinstance(q, OneHotCategorical):
        return (value * q.logits).sum(-1)
    if isinstance(q, Bernoulli):
        logits = q.logits  # type: ignore[attr-defined]
        return value * logsigmoid(logits) + (1 - value) * logsigmoid(-logits)
    raise PairError(
        f"a {name} has no relaxation: use a Bernoulli or a OneHotCategorical, or elbo with the score function"
    )

"""Draws between the values of a discrete latent, differentiable in its logits: Gumbel-softmax.

    y = softmax((logits + g) / T),  g ~ Gumbel(0, 1)           (OneHotCategorical)
    y = sigmoid((logits + l) / T),  l ~ Logistic(0, 1)         (Bernoulli, its two-class case)

As T falls to 0, y becomes a draw of the discrete latent. Reference: Jang, Gu & Poole (2017),
arXiv:1611.01144; Maddison, Mnih & Teh (2017), arXiv:1611.00712.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from ppvae.drawing import Drawn
from ppvae.errors import PairError


def innermost(q: Distribution) -> Distribution:
    """The distribution itself, without what reinterprets or masks it."""
    while type(q).__name__ in ("Independent", "MaskedDistribution"):
        q = q.base_dist  # type: ignore[attr-defined]
    return q


def kind_of(q: Distribution, name: str) -> str:
    """ "bernoulli" or "categorical": what can be relaxed.

    Raises:
        PairError: q is neither.
    """
    found = type(innermost(q)).__name__
    if "OneHotCategorical" in found:
        return "categorical"
    if "Bernoulli" in found and "Relaxed" not in found:
        return "bernoulli"
    raise PairError(
        f"latent {name!r} is drawn from a {found}, which has no relaxation: write it as a Bernoulli or a "
        "OneHotCategorical, or use elbo with the score function"
    )


def noise_like(logits: Tensor, kind: str) -> Tensor:
    """Standard logistic noise for a Bernoulli, Gumbel noise for a categorical."""
    u = torch.rand_like(logits).clamp(torch.finfo(logits.dtype).tiny, 1 - torch.finfo(logits.dtype).eps)
    return u.logit() if kind == "bernoulli" else -(-u.log()).log()


def harden(logits: Tensor, kind: str) -> Tensor:
    """The discrete value that perturbed logits stand for, without a gradient."""
    if kind == "bernoulli":
        return (logits > 0).to(logits)
    return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)


def soften(logits: Tensor, kind: str, temperature: Tensor | float) -> Tensor:
    """The relaxed value at a temperature."""
    scaled = logits / temperature
    return scaled.sigmoid() if kind == "bernoulli" else scaled.softmax(-1)


def relaxed_draw(q: Distribution, name: str, temperature: Tensor | float, hard: bool = False) -> Drawn:
    """A relaxed draw; `hard`: straight-through, the discrete value forward and the relaxed gradient back."""
    kind = kind_of(q, name)
    logits: Tensor = innermost(q).logits  # type: ignore[attr-defined]
    perturbed = logits + noise_like(logits, kind)
    soft = soften(perturbed, kind, temperature)
    value = harden(perturbed.detach(), kind) + soft - soft.detach() if hard else soft
    return Drawn(value, "relaxed", noise=perturbed)

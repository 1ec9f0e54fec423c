"""Draws between the values of a discrete latent, differentiable in its logits: Gumbel-softmax.

    y = softmax((logits + g) / T),  g ~ Gumbel(0, 1)           (OneHotCategorical)
    y = sigmoid((logits + l) / T),  l ~ Logistic(0, 1)         (Bernoulli, its two-class case)

As T falls to 0, y becomes a draw of the discrete latent. Reference: Jang, Gu & Poole (2017),
arXiv:1611.01144; Maddison, Mnih & Teh (2017), arXiv:1611.00712.
"""

from __future__ import annotations

import torch
from pyro.distributions.util import scale_and_mask, sum_rightmost
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical
from torch.nn.functional import logsigmoid

from ppvae.drawing import Drawn
from ppvae.errors import PairError
from ppvae.wrapped import innermost


def kind_of(q: Distribution, name: str) -> str:
    """ "bernoulli" or "categorical": what can be relaxed.

    Raises:
        PairError: q is neither.
    """
    base = innermost(q)
    # By class, not by name: a ContinuousBernoulli or a RelaxedOneHotCategorical is continuous already.
    if isinstance(base, OneHotCategorical):
        return "categorical"
    if isinstance(base, Bernoulli):
        return "bernoulli"
    raise PairError(
        f"latent {name!r} is drawn from a {type(base).__name__}, which has no relaxation: write it as a "
        "Bernoulli or a OneHotCategorical, or use elbo with the score function"
    )


def is_relaxable(q: Distribution) -> bool:
    """Whether q is a discrete distribution that has a relaxation."""
    return isinstance(innermost(q), OneHotCategorical | Bernoulli)


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
    # In this order the forward value is the discrete one to the last bit.
    value = harden(perturbed.detach(), kind) + (soft - soft.detach()) if hard else soft
    return Drawn(value, "relaxed", noise=perturbed)


def concrete_log_prob(d: Distribution, perturbed: Tensor) -> Tensor:
    """The log-density of perturbed logits, of d's batch shape, up to what two of them share.

    With v the perturbed logits, of which y = sigmoid(v / T) or softmax(v / T) is made, and a the logits of d,

        log f(v - a),                         f the logistic density          (Bernoulli)
        sum_c (a_c - v_c) - C log sum_c exp(a_c - v_c)                        (OneHotCategorical)

    What it lacks to the density of y at temperature T is a function of v, T and C alone, which cancels in the
    ratio of two: so log p(y) - log q(y) is exact and the same at every temperature.

    Reference: Maddison, Mnih & Teh (2017), appendix C.
    """
    wrapper = type(d).__name__
    if wrapper == "Independent":
        inner = concrete_log_prob(d.base_dist, perturbed)  # type: ignore[attr-defined]
        return sum_rightmost(inner, d.reinterpreted_batch_ndims)  # type: ignore[attr-defined]
    if wrapper == "MaskedDistribution":
        return scale_and_mask(concrete_log_prob(d.base_dist, perturbed), mask=d._mask)  # type: ignore[attr-defined]
    away = d.logits - perturbed  # type: ignore[attr-defined]
    if kind_of(d, wrapper) == "bernoulli":
        return logsigmoid(away) + logsigmoid(-away)
    return away.sum(-1) - away.shape[-1] * away.logsumexp(-1)

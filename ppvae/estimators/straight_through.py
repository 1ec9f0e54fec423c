"""Discrete draws forward, the gradient of relaxed ones backward."""

from __future__ import annotations

from collections.abc import Mapping

from ppvae.estimators.base import Claims, Functional, Knobs
from ppvae.estimators.elbo import ELBO
from ppvae.estimators.functionals import mean
from ppvae.estimators.gumbel import Gumbel
from ppvae.estimators.objective import Objective
from ppvae.terms import Terms


class StraightThrough(Gumbel):
    """L(x) = E_q[log p(x | z)] - KL(q, p), z a discrete draw; d z / d logits is taken to be d y / d logits of
    the relaxed y at temperature T that z is the nearest value of.

        z = onehot(argmax_c (logits_c + g_c)),  y = softmax((logits + g) / T),  d z := d y

    Lower bound; the value and the model's gradient are unbiased, the guide's is biased at every T, for the
    model is scored and differentiated at z but only a linear model has there the slope that z's change stands
    for. Low T: more variance; T -> 0 does not remove the bias.

    The rate is the closed form, or log q - log p of the draw, as in `gumbel` with density "kl". Temperature
    and knobs are those of `gumbel`.

    Reference: Jang, Gu & Poole (2017), arXiv:1611.01144, section 2.2; Bengio, Leonard & Courville (2013),
    arXiv:1308.3432.
    """

    claims = Claims(bound="lower", biased=("guide",))
    hard = True

    def __init__(
        self,
        particles: int = 1,
        temperature: float = 1.0,
        least: float = 0.1,
        rate: float = 0.0,
        beta: float = 1.0,
        free_bits: float = 0.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, temperature, least, rate, "kl", beta, free_bits, sites)

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), mean)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        return ELBO.objective(self, terms, knobs)  # which has a bound: its draws are the model's own values

"""DisARM: antithetic Bernoulli pairs, with what only the uniform number knows averaged out."""

from __future__ import annotations

from torch import Tensor

from ppvae.estimators.antithetic import Antithetic


class DisARM(Antithetic):
    """d E_q[f(b)] / d a_i = E[1/2 (f(b) - f(b~)) (-1)^(b~_i) 1[b_i != b~_i] s(|a_i|)],

    b = 1[1 - u < s(a)], b~ = 1[u < s(a)], u uniform, a the logits, s the sigmoid, f = log w of one datum.

    Lower bound (the ELBO, over all draws); unbiased, value and gradient. It is the mean of ARM's gradient
    given (b, b~), so that its variance is never larger: bit i has none where b_i = b~_i. Two evaluations for
    each Bernoulli layer. Needs Bernoulli latents that the guide does not enumerate; reparameterized ones
    beside them get the pathwise gradient.

    Reference: Dong, Mnih & Tucker (2020), arXiv:2006.10680; found at the same time as U2G by Yin, Ho, Yan,
    Qian & Zhou (2020), arXiv:2006.06448.
    """

    def slope(self, first: Tensor, second: Tensor, uniform: Tensor, logits: Tensor) -> Tensor:
        return 0.5 * (first - second) * logits.abs().sigmoid()

"""ARM: augment, reinforce, merge; antithetic Bernoulli pairs."""

from __future__ import annotations

from torch import Tensor

from ppvae.estimators.antithetic import Antithetic


class ARM(Antithetic):
    """d E_q[f(b)] / d a = E[(f(b) - f(b~)) (u - 1/2)],

    b = 1[u > s(-a)], b~ = 1[u < s(a)], u uniform, a the logits, s the sigmoid, f = log w of one datum.

    Lower bound (the ELBO, over all draws); unbiased, value and gradient. No baseline and no relaxation: two
    evaluations for each Bernoulli layer. DisARM has the same mean and never a larger variance. Needs
    Bernoulli latents that the guide does not enumerate; reparameterized ones beside them get the pathwise
    gradient.

    Reference: Yin & Zhou (2019), arXiv:1807.11143.
    """

    def slope(self, first: Tensor, second: Tensor, uniform: Tensor, logits: Tensor) -> Tensor:
        return uniform - 0.5

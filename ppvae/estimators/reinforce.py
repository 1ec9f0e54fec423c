"""The score function with a leave-one-out baseline: what the other particles got."""

from __future__ import annotations

from torch import Tensor

from ppvae.estimators.elbo import ELBO


class Reinforce(ELBO):
    """L(x) = E_q[log w], log w = log p(x, z) - log q(z | x), by the mean of K draws; for discrete latents

        d L / d phi = E[(1/K) sum_k (log w_k - (1/(K-1)) sum_{j != k} log w_j) d log q(z_k | x) / d phi].

    Lower bound; unbiased, value and gradient: the baseline of a draw holds the other draws alone, of which it
    knows nothing. One draw, K = 1, has no baseline and is `elbo` itself. Variance: that of the signal falls
    from E[(log w)^2] to Var(log w) K / (K - 1). Reparameterized latents are differentiated through their
    draws. Takes any latent, global ones too, whose signal is that of the whole data set.

    Knobs: `beta`, `free_bits` as in `elbo`.

    Reference: Williams (1992); Kool, van Hoof & Welling (2019), "Buy 4 REINFORCE samples, get a baseline for
    free!". Not to be confused with `vimco`, whose bound grows with K.
    """

    def centered(self, signal: Tensor) -> Tensor:
        particles = len(signal)
        if particles == 1:
            return signal
        # signal_k less the mean of the others, which is K / (K - 1) times its distance from the mean of all.
        return (signal - signal.mean(0)) * (particles / (particles - 1))

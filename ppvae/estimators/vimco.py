"""The importance-weighted bound for discrete latents: a baseline for each particle from all the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppvae.estimators.base import Knobs, Needs, knob
from ppvae.estimators.functionals import log_mean_exp, log_sum_of_others
from ppvae.estimators.iwae import IWAE
from ppvae.estimators.objective import Objective
from ppvae.shapes import Float
from ppvae.terms import Terms


class VIMCO(IWAE):
    """L_K(x) = E log (1/K) sum_k w_k, as `iwae`, for latents that are not reparameterized:

        d L_K / d phi = E[sum_k (L - L_{-k}) d log q(z_k | x) / d phi + sum_k w~_k d log w_k / d phi],

    w~_k = w_k / sum_j w_j and L_{-k} = log (1/K) (sum_{j != k} w_j + exp mean_{j != k} log w_j): the bound
    with particle k's weight replaced by the geometric mean of the others.

    Lower bound; unbiased, value and gradient, since L_{-k} knows nothing of z_k. All is per datum. Latents
    that are reparameterized beside the discrete ones get the plain pathwise gradient of `iwae`, which this is
    where all are. K = 1 has no others: the score function without a baseline.

    Knob: `beta` weighs the rate inside the weights that are optimized; the reported bound has beta = 1.

    Reference: Mnih & Rezende (2016), arXiv:1602.06725.
    """

    needs = Needs(weights=True)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        log_weight = log_likelihood + beta * log_ratio
        optimized = log_mean_exp(log_weight)
        signal = (optimized - without_own(log_weight.detach())).detach()
        surrogate = torch.zeros_like(optimized)
        for site in terms.sites.values():
            if site.how == "score" and site.law is not None:
                surrogate = surrogate + (signal * site.law).sum(0)
        loss = -(optimized + surrogate - surrogate.detach()).mean()
        return Objective(log_mean_exp((log_likelihood + log_ratio).detach()), {"all": loss})


def without_own(log_weight: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """L_{-k} per datum, in nats: the log-mean of the weights with the own one replaced by the geometric mean
    of the others; zero, no baseline, where those are all zero.

    K = 1 has no others: -1 takes the d log q out that stands in d log w and has mean zero, which leaves
    (log w) d log q.
    """
    particles = len(log_weight)
    if particles == 1:
        return -torch.ones_like(log_weight)
    zero = torch.zeros_like(log_weight[:1])
    below = torch.cat([zero, log_weight.cumsum(0)[:-1]])
    above = torch.cat([log_weight.flip(0).cumsum(0).flip(0)[1:], zero])
    geometric = (below + above) / (particles - 1)
    found = torch.logaddexp(log_sum_of_others(log_weight), geometric) - math.log(particles)
    return torch.where(found == -math.inf, torch.zeros_like(found), found)

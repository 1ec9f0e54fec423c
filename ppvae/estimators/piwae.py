"""The model climbs a tight bound, the guide one of better signal."""

from __future__ import annotations

from collections.abc import Mapping

from ppvae.estimators.base import Functional, Knobs, Needs, knob
from ppvae.estimators.functionals import log_mean_exp, mean_log_mean_exp
from ppvae.estimators.miwae import MIWAE
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import (
    log_guide,
    log_model,
    surrogate_loss,
)
from ppvae.estimators.paths import along_paths
from ppvae.terms import Terms


class PIWAE(MIWAE):
    """Of the same M K draws (M = `groups`, K = `particles`), the model climbs the bound of `iwae` with M K
    draws and the guide that of `miwae`, the mean of M bounds with K draws each:

        d theta: grad E log (1/MK) sum_mk w_mk,    d phi: grad E (1/M) sum_m log (1/K) sum_k w_mk.

    Lower bound (the reported one is the model's); unbiased, value and both gradients, each of its own target.
    What moves with the model alone and what moves with the guide is told apart in the graph: a parameter that
    both share follows the sum of its two parts.

    Knob: `beta` weighs the rate inside the weights that are optimized; the reported bound has beta = 1.

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh (2018), arXiv:1802.04537.
    """

    needs = Needs(reparameterized=True, weights=True, leaves=True)

    def targets(self) -> Mapping[str, Functional]:
        guide = mean_log_mean_exp(self.particles)
        return {"bound": log_mean_exp, "model": log_mean_exp, "guide": guide}

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        log_weight = log_likelihood + beta * log_ratio
        tight = log_weight.detach().softmax(0)
        # The gradient of a mean of log-mean-exps: a softmax in each group.
        apart = log_weight.detach().unflatten(0, (-1, self.particles)).softmax(1).flatten(0, 1) / self.groups
        model = (tight * log_model(terms, beta)).sum(0).mean()
        guide = -(apart * log_guide(terms, beta)).sum(0).mean()
        paths = along_paths(terms, (apart * log_weight).sum(0).mean())
        loss = surrogate_loss(log_mean_exp(log_weight), model + guide + paths)
        return Objective(log_mean_exp((log_likelihood + log_ratio).detach()), {"all": loss})

"""Reweighted wake-sleep: model and guide each climb an objective of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ppvae.dreaming import log_guide
from ppvae.errors import PairError
from ppvae.estimators import sites as per_site
from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Needs, knob
from ppvae.estimators.functionals import log_mean_exp
from ppvae.estimators.objective import Objective
from ppvae.shapes import Float
from ppvae.terms import Terms


@dataclasses.dataclass
class WakeAndSleep(Terms):
    """The terms of a batch, and of as many dreams beside them."""

    dream: Terms | None = None


class RWS(Estimator):
    """With z_k ~ q(z | x), w_k = p(x, z_k) / q(z_k | x) and v_k = w_k / sum_j w_j, none of them
    differentiated,

    model    wake     sum_k v_k grad log p(x, z_k), the gradient of IWAE's bound
    guide    wake     sum_k v_k grad log q(z_k | x), towards E_p(z|x) grad log q as K grows
    guide    sleep    grad log q(z' | x') at a dream (z', x') ~ p(x, z)

    `sleep` mixes the guide's: 0 is wake-wake (Le et al.), 0.5 the sum of Bornschein & Bengio, halved, 1
    sleep alone. The guide covers the posterior, min KL(p, q), instead of seeking a mode.

    Lower bound (IWAE's is reported). Model: unbiased for that bound. Guide: the wake gradient is a
    self-normalized average, biased by O(1/K); with K = 1 it is noise of mean zero. The sleep gradient is
    unbiased, but under the model's own data. No latent needs a reparameterization: continuous and discrete
    ones are alike. Weights are per datum. Needs local latents; sleep needs a model that draws its
    observations.

    Knob: `sleep`.

    Reference: Bornschein & Bengio (2015), arXiv:1406.2751; Le, Kosiorek, Siddharth, Teh & Wood (2019),
    arXiv:1805.10469. `pyro.infer.ReweightedWakeSleep` has one weight for the whole batch: with one datum a
    batch it is this, with `insomnia` for 1 - sleep.
    """

    needs = Needs(weights=True, leaves=True)
    claims = Claims(bound="lower")

    def __init__(self, particles: int = 5, sleep: float = 0.0, sites: Mapping[str, str] | None = None):
        super().__init__(particles, sites)
        if not 0 <= sleep <= 1:
            raise ValueError(f"sleep={sleep}: give the share of dreams in the guide's loss, from 0 to 1")
        if particles < 2 and sleep < 1:
            raise ValueError("particles=1: one draw has no weights to learn from, give 2 or more, or sleep=1")
        self.sleep = sleep

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model"), log_mean_exp)

    def score(self, scorer: Any, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        terms = super().score(scorer, batch, knobs)
        asleep = self.sleep > 0 or "sleep" in knobs
        return WakeAndSleep(**vars(terms), dream=dreams(self, scorer, batch) if asleep else None)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        log_weight, log_q = terms.log_weight.detach(), log_guide(terms)
        weight = log_weight.softmax(0)
        model = -(weight * log_joint(terms)).sum(0).mean()
        guide = -(weight * log_q).sum(0).mean()
        found = {}
        if isinstance(terms, WakeAndSleep) and terms.dream is not None:
            share = knob(knobs, "sleep", self.sleep)
            sleep = -log_guide(terms.dream).mean()
            guide = (1 - share) * guide + share * sleep
            found["sleep"] = sleep.detach()
        return Objective(log_mean_exp(log_weight), {"all": model + guide}, found)


def log_joint(terms: Terms) -> Float[Tensor, "K B"]:
    """log p(x, z) at the draws of the guide; what the model sums out is summed out.

    Scored with leaves it is differentiable in the model alone.
    """
    total = terms.log_likelihood
    for site in terms.of("local", "bound"):
        # Of a latent that the model enumerates, log q is its exact posterior, part of the marginal.
        total = total + (site.log_p if site.q is not None else site.log_ratio)
    return total


def dreams(estimator: Estimator, scorer: Any, batch: Mapping[str, Any]) -> Terms:
    """The terms of one dream for each row of the batch.

    Raises:
        PairError: the model cannot dream, or the scorer, a stock SVI, does not know what is observed.
    """
    if not hasattr(scorer, "dream"):
        raise PairError(
            f"{type(estimator).__name__} dreams, and SVI does not say which of the model's arguments are "
            "observed: train with ppvae.fit, or use rws with sleep=0"
        )
    try:
        return scorer.dream(batch, enumerated=per_site.enumerated(estimator.sites, scorer.enumerated))
    except PairError as error:
        raise PairError(f"{error}; or use elbo, which does not dream") from error

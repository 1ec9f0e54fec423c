"""Reweighted wake-sleep: model and guide each climb an objective of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ppvae.errors import PairError
from ppvae.estimators import sites as per_site
from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Needs, knob
from ppvae.estimators.functionals import log_mean_exp
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import log_guide, log_model
from ppvae.terms import Terms
from ppvae.wrapped import is_point


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

    def refuse(self, terms: Terms) -> None:
        super().refuse(terms)
        refuse_without_density(terms)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        log_weight, log_q = terms.log_weight.detach(), log_guide(terms)
        weight = log_weight.softmax(0)
        model = -(weight * log_model(terms)).sum(0).mean()
        guide = -(weight * log_q).sum(0).mean()
        found = {}
        if isinstance(terms, WakeAndSleep) and terms.dream is not None:
            share = knob(knobs, "sleep", self.sleep)
            sleep = -log_guide(terms.dream).mean()
            guide = (1 - share) * guide + share * sleep
            found["sleep"] = sleep.detach()
        return Objective(log_mean_exp(log_weight), {"all": model + guide}, found)


def refuse_without_density(terms: Terms) -> None:
    """Raise PairError for a latent without a density log q at a dream: a point, a relaxation, or one that is
    summed out in the guide."""
    for site in terms.of("local", "bound"):
        if site.q is None:
            continue
        if site.name in terms.expected:
            raise PairError(
                f"the guide enumerates {site.name!r}, which leaves no log q of a draw: leave it out of the "
                "guide, so that the model sums it out"
            )
        if site.how == "relaxed" or is_point(site.q):
            raise PairError(
                f"latent {site.name!r} is drawn as a relaxation or a point, which has no log q: "
                "draw it from its distribution, or use elbo"
            )


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

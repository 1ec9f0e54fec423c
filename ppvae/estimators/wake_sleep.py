"""Wake-sleep: the model learns from the guide's draws, the guide from the model's dreams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppvae.errors import PairError
from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Needs
from ppvae.estimators.functionals import mean
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import log_guide, log_model
from ppvae.estimators.rws import WakeAndSleep, dreams, refuse_without_density
from ppvae.terms import Terms


class WakeSleep(Estimator):
    """Two phases, in one step:

    wake     the model climbs   E_q(z|x)[log p(x, z)], hence the ELBO
    sleep    the guide climbs   E_p(x,z)[log q(z | x)], hence -E_p(x) KL(p(z | x), q(z | x))

    Lower bound (the ELBO is reported). Model: unbiased for it, draws not differentiated. Guide: unbiased for
    the sleep objective, which is another than the ELBO's: the two phases descend no common function, and the
    guide learns on the model's data, poor ones at first. Any latents, continuous or discrete, that are local.
    Needs a model that draws its observations.

    Reference: Hinton, Dayan, Frey & Neal (1995), The "wake-sleep" algorithm for unsupervised neural networks,
    Science 268. With one particle it is `rws` with sleep=1.
    """

    needs = Needs(leaves=True)
    claims = Claims(bound="lower")

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model"), mean)

    def score(self, scorer: Any, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        terms = super().score(scorer, batch, knobs)
        return WakeAndSleep(**vars(terms), dream=dreams(self, scorer, batch))

    def refuse(self, terms: Terms) -> None:
        super().refuse(terms)
        refuse_without_density(terms)
        if terms.has_global:
            shared = next(s.name for s in terms.sites.values() if s.log_p.dim() == 1)
            raise PairError(f"WakeSleep takes local latents, but {shared!r} is shared by all data: use elbo")

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        assert isinstance(terms, WakeAndSleep)
        assert terms.dream is not None
        sleep = -log_guide(terms.dream).mean()
        loss = -log_model(terms).mean() + sleep
        return Objective(terms.log_weight.detach().mean(0), {"all": loss}, {"sleep": sleep.detach()})

"""An estimator of one's own: the importance-weighted bound, with its claims.

ppvae check examples/own_estimator.py:Mine:k=5
ppvae train vae --estimator examples/own_estimator.py:Mine:k=5
"""

import math

from ppvae.estimators import Claims, Estimator, Needs, Objective


def log_mean(log_weight):  # log (1/K) sum_k w_k of log-weights (K, B), a number per datum: (B,)
    return log_weight.logsumexp(0) - math.log(len(log_weight))


class Mine(Estimator):
    needs = Needs(reparameterized=True, weights=True)  # a pair without is refused, in a line
    claims = Claims(bound="lower")  # of log p(x); and no biased gradient

    def targets(self):  # what the reported bound, and each gradient, estimates
        return {"bound": log_mean, "model": log_mean, "guide": log_mean}

    def objective(self, terms, knobs):
        bound = log_mean(terms.log_weight)
        return Objective(bound.detach(), {"all": -bound.mean()})  # "all": the loss of model and guide

"""Numbers about a trained pair on held-out data: no optimizer in here, parameters are bit-equal after."""

from ppvae.evaluation.evaluate import evaluate
from ppvae.evaluation.importance import log_likelihood
from ppvae.evaluation.means import evaluating, mean_terms

__all__ = ["evaluate", "evaluating", "log_likelihood", "mean_terms"]

"""Numbers about a trained pair on held-out data: no optimizer in here, parameters are bit-equal after."""

from ppvae.evaluation.evaluate import evaluate
from ppvae.evaluation.importance import log_likelihood, log_weights
from ppvae.evaluation.means import evaluating, mean_terms
from ppvae.evaluation.psis import effective_sample_size

__all__ = ["effective_sample_size", "evaluate", "evaluating", "log_likelihood", "log_weights", "mean_terms"]

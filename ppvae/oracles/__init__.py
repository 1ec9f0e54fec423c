"""Is an estimator right? It is held against pairs whose every expectation is known.

`examine(estimator)` compares value and gradients with exact truths and judges every claim of the estimator;
`ppvae check file.py:MyEstimator` prints what it finds.
"""

from ppvae.oracles.examining import examine
from ppvae.oracles.report import OracleReport, OracleRow

__all__ = ["OracleReport", "OracleRow", "examine"]

"""The pair linter: does this guide fit this model, and do both fit the data?

`check(pair)` runs a pair on a real batch and reports what would go wrong, with file, line and fix.
"""

from ppvae.linter.checking import check
from ppvae.linter.report import Finding, Report, Row

__all__ = ["Finding", "Report", "Row", "check"]

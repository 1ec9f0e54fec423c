"""Report pages: what was measured, with its tables and figures, in one HTML file that needs nothing else."""

from ppvae.reports.numerals import interval, measured, numeral, signed
from ppvae.reports.page import Cell, Page

__all__ = ["Cell", "Page", "interval", "measured", "numeral", "signed"]

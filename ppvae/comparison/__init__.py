"""Comparing estimators on one pair: train each under an equal budget, and hold their gradients side by side.

Names are imported on first use, so that the options alone need neither torch nor Pyro.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Comparison": "ppvae.comparison.result",
    "CompareConfig": "ppvae.comparison.options",
    "Laboratory": "ppvae.comparison.findings",
    "compare": "ppvae.comparison.comparing",
    "paired_difference": "ppvae.comparison.differences",
    "probe": "ppvae.comparison.laboratory",
}

if TYPE_CHECKING:
    from ppvae.comparison.comparing import compare
    from ppvae.comparison.differences import paired_difference
    from ppvae.comparison.findings import Laboratory
    from ppvae.comparison.laboratory import probe
    from ppvae.comparison.options import CompareConfig
    from ppvae.comparison.result import Comparison

__all__ = ["CompareConfig", "Comparison", "Laboratory", "compare", "paired_difference", "probe"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ppvae.comparison' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

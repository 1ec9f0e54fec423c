"""ppvae: deep generative models as Pyro model/guide pairs.

Names are imported on first use, so that `import ppvae` and `ppvae --help` need neither torch nor Pyro.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Pair": "ppvae.pair",
    "penalty": "ppvae.pair",
    "find": "ppvae.registry",
    "names": "ppvae.registry",
    "build": "ppvae.build",
    "check": "ppvae.check",
    "TrainConfig": "ppvae.config",
    "fit": "ppvae.fit",
    "Trained": "ppvae.trained",
    "load": "ppvae.trained",
    "evaluate": "ppvae.evaluate",
}

if TYPE_CHECKING:
    from ppvae.build import build
    from ppvae.check import check
    from ppvae.config import TrainConfig
    from ppvae.evaluate import evaluate
    from ppvae.fit import fit
    from ppvae.pair import Pair, penalty
    from ppvae.registry import find, names
    from ppvae.trained import Trained, load

__all__ = [
    "Pair", "TrainConfig", "Trained", "build", "check", "evaluate", "find", "fit", "load", "names", "penalty",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ppvae' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

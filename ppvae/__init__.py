"""ppvae: deep generative models as Pyro model/guide pairs.

Names are imported on first use, so that `import ppvae` and `ppvae --help` need neither torch nor Pyro.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# No name here may be that of a submodule: importing the submodule would put the module in its place.
_HOMES = {
    "Pair": "ppvae.pair",
    "penalty": "ppvae.pair",
    "find": "ppvae.registry",
    "names": "ppvae.registry",
    "check": "ppvae.linter",
    "Comparison": "ppvae.comparison",
    "compare": "ppvae.comparison",
    "TrainConfig": "ppvae.config",
    "fit": "ppvae.training",
    "Trained": "ppvae.trained",
    "load": "ppvae.trained",
    "evaluate": "ppvae.evaluation",
    "EvaluationConfig": "ppvae.evaluation_config",
}

if TYPE_CHECKING:
    from ppvae.comparison import Comparison, compare
    from ppvae.config import TrainConfig
    from ppvae.evaluation import evaluate
    from ppvae.evaluation_config import EvaluationConfig
    from ppvae.linter import check
    from ppvae.pair import Pair, penalty
    from ppvae.registry import find, names
    from ppvae.trained import Trained, load
    from ppvae.training import fit

__all__ = [
    "Comparison", "EvaluationConfig", "Pair", "TrainConfig", "Trained", "check", "compare", "evaluate",
    "find", "fit", "load", "names", "penalty",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ppvae' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

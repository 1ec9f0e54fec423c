"""The options of an evaluation, in one place: `evaluate`'s and the command line's.

This file imports neither torch nor Pyro, so that `ppvae --help` answers at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ppvae.config import fitting, kinds_of
from ppvae.errors import UsageError, nearest

SPLITS = ("test", "valid", "train")
STARTS = ("guide", "prior")
FURTHER = ("calibration", "ais", "gaps", "rate_distortion")
"""What costs minutes, and is asked for by name."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and how closely. With the defaults, each of the further ones takes a minute or a few
    for the MLP VAE on two CPU cores."""

    k: int = 1000
    """Importance samples per datum."""
    n: int = 1000
    """Shuffled data of the split for log p(x), k-hat and information; the elbo uses all."""
    split: Literal["test", "valid", "train"] = "test"
    """Which data."""
    seed: int = 0
    """Seed of the draws and the shuffling."""
    all: bool = False
    """Calibration, AIS, gaps and the rate-distortion curve as well."""
    calibration: bool = False
    """Simulation-based calibration of the guide."""
    calibration_n: int = 1000
    """Data that the model draws for it; of fewer than 20, no rank could be told from a uniform one."""
    calibration_draws: int = 99
    """Draws of the guide that the truth is ranked among."""
    ais: bool = False
    """log p(x) between a lower and an upper bound, by annealed chains."""
    ais_n: int = 50
    """Data for it."""
    start: Literal["guide", "prior"] = "guide"
    """Where its chains begin: the prior needs no guide whose density is known."""
    gaps: bool = False
    """Approximation and amortization gap of the guide."""
    gaps_n: int = 50
    """Data for them."""
    gaps_steps: int = 500
    """Steps of the optimizer that fits the best q to each datum."""
    rate_distortion: bool = False
    """The rate-distortion curve of the model over beta."""
    rate_distortion_n: int = 50
    """Data for it."""
    chains: int = 10
    """Annealed chains per datum, for AIS and the rate-distortion curve."""
    temperatures: int = 500
    """Temperatures that they pass: more bring both sides of log p(x) closer together."""

    def __post_init__(self):
        for name, kinds in kinds_of(type(self)).items():
            object.__setattr__(self, name, fitting(name, getattr(self, name), kinds))
        if self.k < 1 or self.n < 1:
            raise UsageError(f"k={self.k}, n={self.n}: use at least 1 of each")
        for name, choices in (("split", SPLITS), ("start", STARTS)):
            value = getattr(self, name)
            if value not in choices:
                close = nearest(value, choices) or ":"
                raise UsageError(f"no {name} {value!r}{close} There are: {', '.join(choices)}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)} is too small: use at least {least}")
        if self.seed >= 2**32:
            raise UsageError(f"seed={self.seed} is too large: use one below {2**32}")

    @classmethod
    def from_options(cls, config: EvaluationConfig | None, options: dict[str, Any]) -> EvaluationConfig:
        """`config` with `options` in the place of its own. Raises UsageError for an unknown one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                close = nearest(name, known) or ":"
                raise UsageError(f"no option {name!r}{close} There are: {', '.join(known)}")
        return dataclasses.replace(config or cls(), **options)

    def further(self) -> list[str]:
        """What is asked for beyond what is always measured."""
        return [name for name in FURTHER if self.all or getattr(self, name)]


_LEAST = {
    "seed": 0, "calibration_n": 20, "calibration_draws": 1, "ais_n": 1, "gaps_n": 1, "gaps_steps": 1,
    "rate_distortion_n": 1, "chains": 1, "temperatures": 1,
}  # fmt: skip

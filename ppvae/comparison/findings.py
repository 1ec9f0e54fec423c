"""What the gradient laboratory found, as plain values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ppvae.comparison.moments import Estimate

UNITS = {
    "norm": "nats per datum and unit of the parameters",
    "bias": "nats per datum and unit of the parameters",
    "bias_squared": "its square",
    "z": "standard errors",
    "variance": "its square, summed over parameters",
    "variance_time": "that times seconds",
    "snr": "none",
    "snr_per_parameter": "none",
    "dsnr": "none",
    "seconds": "seconds per gradient",
    "bound": "nats per datum",
}


@dataclass
class GroupFinding:
    """One estimator's gradient for one group of parameters."""

    parameters: int
    norm: Estimate
    """|E g|, without the noise's share."""
    variance: Estimate
    """tr Cov g."""
    variance_time: float
    """tr Cov g times the seconds of one gradient: what it costs to average the noise away."""
    snr: float
    snr_per_parameter: float | None
    dsnr: Estimate | None
    """None for fewer than 3 parameters, where it says nothing."""
    target: str | None = None
    """What the gradient climbs on average, by the estimator's own word; None: no functional."""
    bias: Estimate | None = None
    bias_squared: Estimate | None = None
    """|E g - truth|^2 without the noise's share; may be negative."""
    z: float | None = None
    """Of the hypothesis that there is no bias."""
    reference: str | None = None
    """What the truth is."""
    without: str = ""
    """Why there is none, where there is a target."""
    rounding: float = 0.0
    """What the arithmetic itself may add to a norm."""

    def shown(self) -> GroupFinding:
        """Itself with 0 for what is within the rounding: without noise there is no variance of 1e-31."""
        found = dataclasses.replace(self)
        if self.norm.value <= self.rounding:
            found.norm = Estimate(0.0)
        if self.bias is not None and self.bias.value <= self.rounding:
            error = self.bias.stderr or 0.0
            found.bias = Estimate(0.0, error if error > self.rounding else None)
        if self.variance.value <= self.rounding**2:
            ratio = math.inf if found.norm.value > 0 else 0.0
            found.variance, found.variance_time, found.snr = Estimate(0.0), 0.0, ratio
            found.snr_per_parameter = None if self.snr_per_parameter is None else ratio
            found.dsnr = None if self.dsnr is None else Estimate(ratio)
        return found


@dataclass
class Probe:
    """One estimator in the laboratory; `refused` or `failed` says why it has no numbers."""

    estimator: str
    seconds: float | None = None
    """The median of one gradient, without the optimizer's step."""
    seconds_quartiles: tuple[float, float] | None = None
    bound: Estimate | None = None
    """The reported bound on this batch: mean over repeats."""
    groups: dict[str, GroupFinding] = field(default_factory=dict)
    settled: int = 0
    """Steps that its own baselines learnt before."""
    refused: str | None = None
    failed: str | None = None
    """What it raised, or that its gradient is not finite."""

    @property
    def line(self) -> str | None:
        """Why it has no numbers, with the word for it."""
        if self.failed is not None:
            return f"failed: {self.failed}"
        return None if self.refused is None else f"refused: {self.refused}"


@dataclass
class Laboratory:
    """All estimators at one setting of the parameters, on one batch."""

    probes: list[Probe]
    repeats: int
    rows: int
    parameters: dict[str, int]
    step: int = 0
    seed: int = 0
    at: str = "the parameters given"
    """Which parameters these are, in words."""
    exact_elbo: float | None = None
    evidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with their units."""
        return {**dataclasses.asdict(self), "units": UNITS}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Laboratory:
        """The exact inverse of `to_dict`."""
        probes = [_probe(found) for found in saved["probes"]]
        rest = {k: v for k, v in saved.items() if k not in ("probes", "units")}
        return cls(probes=probes, **rest)


def _probe(saved: dict[str, Any]) -> Probe:
    groups = {name: _group(found) for name, found in saved["groups"].items()}
    quartiles = saved["seconds_quartiles"]
    return Probe(
        **{
            **saved,
            "groups": groups,
            "bound": _estimate(saved["bound"]),
            "seconds_quartiles": None if quartiles is None else tuple(quartiles),
        }
    )


def _group(saved: dict[str, Any]) -> GroupFinding:
    measured = ("norm", "variance", "dsnr", "bias", "bias_squared")
    return GroupFinding(**{**saved, **{name: _estimate(saved[name]) for name in measured}})


def _estimate(saved: dict[str, Any] | None) -> Estimate | None:
    return None if saved is None else Estimate(**saved)

"""What takes part in the laboratory: an estimator under test, and a truth to hold it against.

Both are asked for one gradient a repeat. They keep moments, and projections on directions that the first half
of the repeats has taught.
"""

from __future__ import annotations

import copy
import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.comparison.failures import told
from ppvae.comparison.findings import GroupFinding, Probe
from ppvae.comparison.measures import (
    LEAST_PARAMETERS,
    directional,
    root,
    signal_to_noise,
    signal_to_noise_per_parameter,
    squared_bias,
    squared_norm,
    unit,
    z_of_bias,
)
from ppvae.comparison.moments import Moments, mean_of
from ppvae.comparison.references import Gradient, Reference, Target, flat_gradients, target_of
from ppvae.errors import PairError, UsageError
from ppvae.estimators import Estimator
from ppvae.estimators.gradients import group_gradients

ROUNDING = 64
"""Units in the last place that a gradient may be off by: sums over many entries."""
WARM_UP = 2
"""Gradients before the clock counts: what is made on the first call is not the estimator's cost."""


def seeded(name: str, repeat: int | str, seed: int) -> None:
    """Random numbers that depend on who draws, on the repeat and on the seed, and on nobody else."""
    digest = hashlib.sha256(f"{seed}/{name}/{repeat}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


class Truth:
    """The repeats of a reference, projected on the directions in which estimators differ from it."""

    def __init__(self, reference: Reference, key: str, seed: int):
        self.reference, self.key, self.seed = reference, key, seed
        self.moments: dict[str, Moments] = {}
        self.exact: Gradient | None = None
        self.directions: dict[tuple[str, str], Tensor] = {}
        """By estimator and group."""
        self.projections: dict[tuple[str, str], list[Tensor]] = {}
        self.failed: str | None = None
        if reference.exact:
            self.exact = {group: g.double() for group, g in reference.gradient().items()}

    def take(self, repeat: int) -> None:
        """One more repeat; what it raises, such as a lack of memory, leaves estimators without a truth."""
        if self.exact is not None or self.failed is not None:
            return
        seeded(f"reference {self.key}", repeat, self.seed)
        try:
            gradient = self.reference.gradient()
        except Exception as error:
            self.failed = told(error)
            return
        for group, vector in gradient.items():
            self.moments.setdefault(group, Moments()).add(vector)
        for key, direction in self.directions.items():
            self.projections.setdefault(key, []).append(gradient[key[1]].double() @ direction)

    def mean(self, group: str) -> Tensor:
        return self.moments[group].mean if self.exact is None else self.exact[group]

    def along(self, name: str, group: str) -> tuple[list[Tensor] | None, float]:
        """The repeats' projections, or the one of an exact truth."""
        if self.exact is None:
            return self.projections[name, group], 0.0
        return None, float(self.exact[group] @ self.directions[name, group])


@dataclass(frozen=True)
class Settling:
    """What baselines learn on before the laboratory begins."""

    steps: int
    batch: Callable[[int], Mapping[str, Tensor]]
    """That of the i-th step."""


class Subject:
    """One estimator in the laboratory."""

    def __init__(
        self,
        name: str,
        estimator: Estimator,
        built: Built,
        batch: Mapping[str, Tensor],
        seed: int,
        step: int,
        settling: Settling,
    ):
        self.name, self.built, self.batch, self.seed = name, built, batch, seed
        self.estimator = copy.deepcopy(estimator)
        self.refused: str | None = None
        self.failed: str | None = None
        self.unfinite: dict[str, Tensor] = {}
        """By group: how many of its gradients were not finite. A tensor, which nobody waits for."""
        self.seconds: list[float] = []
        self.bounds: list[Tensor] = []
        self.moments: dict[str, Moments] = {}
        self.means: dict[str, Tensor] = {}
        """By group: the direction of the mean, from the first half."""
        self.biases: dict[str, Tensor] = {}
        self.ratios: dict[str, list[Tensor]] = {}
        self.lengths: dict[str, list[Tensor]] = {}
        self.projections: dict[str, list[Tensor]] = {}
        self.targets: dict[str, Target] = {}
        self.knobs = {
            knob: torch.tensor(value, device=built.device)
            for knob, value in self.estimator.schedule(step).items()
        }
        self._guarded(self._begin, settling)

    @property
    def at_work(self) -> bool:
        return self.refused is None and self.failed is None

    def _guarded(self, work: Callable[[Any], None], argument: Any) -> None:
        """What it refuses or raises is its row; the others go on."""
        try:
            work(argument)
        except (PairError, UsageError) as error:
            self.refused = str(error)
        except Exception as error:
            self.failed = told(error)

    def _begin(self, settling: Settling) -> None:
        seeded(self.name, "prepare", self.seed)
        with pyro.validation_enabled(True):
            self.estimator.prepare(self.built, self.batch)
            self.estimator.to(self.built.device)
            self._estimated()
        self.settled = self._settled(settling)
        self.state = copy.deepcopy(self.estimator.state_dict())
        for _ in range(WARM_UP):
            self._estimated()
        _, targets = self.estimator.promise()
        with torch.no_grad():  # as many as a functional weighs: piwae has groups times particles
            particles = self.estimator.score(self.built, self.batch, self.knobs).particles
        for group in self.built.groups():
            if group in targets:
                self.targets[group] = target_of(targets[group], particles, self.name)

    def _settled(self, settling: Settling) -> int:
        """Let baselines learn, and running means run, at the pair's parameters as they are."""
        own = [p for p in self.estimator.parameters() if p.requires_grad]
        if not own and not list(self.estimator.buffers()):
            return 0
        optimizer = torch.optim.Adam(own, lr=1e-2) if own else None
        for i in range(settling.steps):
            seeded(self.name, f"settle {i}", self.seed)
            found = dict(self._estimated(settling.batch(i))[1])
            for parameter in own:
                parameter.grad = found.get(parameter)  # type: ignore[call-overload]
            if optimizer is not None:
                optimizer.step()
        return settling.steps

    def _estimated(self, batch: Mapping[str, Tensor] | None = None) -> Any:
        batch = self.batch if batch is None else batch
        objective = self.estimator.estimate(self.built, batch, self.knobs)
        return objective.bound, group_gradients(objective, self.built, self.estimator)

    def take(self, repeat: int) -> None:
        """One more gradient."""
        if self.at_work:
            self._guarded(self._take, repeat)

    def _take(self, repeat: int) -> None:
        if self.state:
            self.estimator.load_state_dict(self.state)
        seeded(self.name, repeat, self.seed)
        started = self._now()
        bound, found = self._estimated()
        self.seconds.append(self._now() - started)
        if bound is not None:
            self.bounds.append(bound.detach().double().mean())
        for group, vector in flat_gradients(self.built, found).items():
            self.unfinite[group] = self.unfinite.get(group, 0) + ~vector.isfinite().all()
            self.moments.setdefault(group, Moments()).add(vector)
            if group in self.means:
                self._project(group, vector)

    def _now(self) -> float:
        if self.built.device is not None and self.built.device.type == "cuda":
            torch.cuda.synchronize(self.built.device)
        return time.perf_counter()

    def _project(self, group: str, vector: Tensor) -> None:
        direction = self.means[group]
        self.lengths.setdefault(group, []).append(vector.double() @ direction)
        self.ratios.setdefault(group, []).append(directional(vector, direction))
        if group in self.biases:
            self.projections.setdefault(group, []).append(vector.double() @ self.biases[group])

    def learn(self, truths: Mapping[str, Truth]) -> None:
        """After the first half: where the mean points, and where it points away from the truth."""
        for group, moments in self.moments.items():
            self.means[group] = unit(moments.mean.clone())
            truth = self._truth(group, truths)
            if truth is not None:
                self.biases[group] = unit(moments.mean - truth.mean(group))
                truth.directions[self.name, group] = self.biases[group]

    def _truth(self, group: str, truths: Mapping[str, Truth]) -> Truth | None:
        truth = truths.get(self.targets[group].key) if group in self.targets else None
        return None if truth is None or truth.failed is not None else truth

    def found(self, truths: Mapping[str, Truth]) -> Probe:
        if self.at_work:
            self.failed = self._not_finite()
        if not self.at_work:
            return Probe(self.name, refused=self.refused, failed=self.failed)
        seconds = statistics.median(self.seconds)
        quartiles = statistics.quantiles(self.seconds, n=4)
        return Probe(
            self.name,
            seconds=seconds,
            seconds_quartiles=(quartiles[0], quartiles[2]),
            bound=mean_of(self.bounds) if self.bounds else None,
            groups={group: self._finding(group, truths, seconds) for group in self.moments},
            settled=self.settled,
        )

    def _not_finite(self) -> str | None:
        """A mean over numbers that are none says nothing, least of all that there is no bias."""
        counts = {group: int(count) for group, count in self.unfinite.items() if count}
        if not counts:
            return None
        groups = " and of the ".join(counts)
        share = f"{max(counts.values())} of {len(self.seconds)} repeats"
        return f"its gradient of the {groups} is not finite ({share})"

    def _finding(self, group: str, truths: Mapping[str, Truth], seconds: float) -> GroupFinding:
        finding = self._group(group, self._truth(group, truths), seconds)
        if finding.target is not None and finding.reference is None:
            truth = truths.get(self.targets[group].key)
            failed = None if truth is None else truth.failed
            finding.without = f"its truth failed: {failed}" if failed else "no truth of its target is at hand"
        return finding

    def _group(self, group: str, truth: Truth | None, seconds: float) -> GroupFinding:
        moments = self.moments[group]
        variance = moments.variance
        square = squared_norm(moments, _variance(self.lengths[group]))
        finding = GroupFinding(
            parameters=moments.size,
            norm=root(square.value, square.stderr or 0.0),
            variance=variance,
            variance_time=variance.value * seconds,
            snr=signal_to_noise(moments, square.value),
            snr_per_parameter=signal_to_noise_per_parameter(moments),
            dsnr=mean_of(self.ratios[group]) if moments.size >= LEAST_PARAMETERS else None,
            target=self.targets[group].label if group in self.targets else None,
            rounding=ROUNDING
            * torch.finfo(self.built.dtype or torch.float32).eps
            * float(moments.mean.norm()),
        )
        return finding if truth is None else self._held_against(finding, group, truth)

    def _held_against(self, finding: GroupFinding, group: str, truth: Truth) -> GroupFinding:
        moments, own = self.moments[group], self.projections[group]
        theirs, at = truth.along(self.name, group)
        along = _variance(own) / moments.count
        if theirs is not None:
            along += _variance(theirs) / truth.moments[group].count
        repeats = truth.moments.get(group)
        exact = None if truth.exact is None else truth.exact[group]
        squared = squared_bias(moments, repeats, exact, along)
        finding.bias_squared = squared
        finding.bias = root(squared.value, squared.stderr or 0.0)
        finding.z = z_of_bias(own, theirs, at, finding.rounding)
        finding.reference = truth.reference.label
        return finding


def _variance(numbers: list[Tensor]) -> float:
    return float(torch.stack(numbers).double().var()) if len(numbers) > 1 else 0.0

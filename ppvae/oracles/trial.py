"""One estimator on one oracle: what can be known, what is measured, and what to say of it.

A `Trial` first asks whether the estimator runs there at all, then compares runs exactly (`structure`), finds
the truths, measures, and hands on its comparisons; the threshold that judges them depends on how many all
trials have together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppvae.errors import EstimatorError, PPVAEError
from ppvae.estimators.base import Estimator, Functional
from ppvae.linter.places import located
from ppvae.oracles.measuring import (
    Comparison,
    Estimates,
    compare,
    deviates,
    estimate,
    labels,
    measure,
    prepared,
)
from ppvae.oracles.nodes import Unknown
from ppvae.oracles.report import OracleRow, Verdict
from ppvae.oracles.structure import CHECKS, SHARED
from ppvae.oracles.subjects import Oracle
from ppvae.oracles.truths import Truth, evidence, is_homogeneous, truth

PASSES = 40
FEW = 8
"""Copies of the data in the small batches that are held against the large ones."""
SIDES = {"lower": 1.0, "upper": -1.0}
RAISED = (Exception, SystemExit)
"""What an estimator's own code may end with."""


@dataclass
class Trial:
    """One estimator on one oracle."""

    estimator: Estimator
    oracle: Oracle
    seed: int
    refusal: str = ""
    """The line by which the estimator refuses the oracle."""
    findings: list[OracleRow] = field(default_factory=list)
    """Rows that need no threshold."""
    truths: dict[str, Truth] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)
    """Of the gradient, relative to the truth's norm, by property."""
    shared: str = ""
    """How the data of a batch see each other, if they do."""
    particles: int = 1

    def __post_init__(self) -> None:
        self.claims, self.targets = self.estimator.promise()

    def add(self, name: str, verdict: Verdict, detail: str = "") -> None:
        self.findings.append(OracleRow(self.oracle.name, name, verdict, detail=detail))

    def prepare(self, refused: set[str]) -> None:
        """Everything up to the first comparisons."""
        try:
            self._first_run()
        except EstimatorError as error:
            self.refusal = str(error)
            self.add("runs", "fail", self.refusal)
            return
        except PPVAEError as error:
            self.refusal = str(error)
            plain = self.oracle.name.removesuffix("_scaled")
            if self.oracle.scaled and plain not in refused:
                self.add("scale", "pass", f"refused: {self.refusal}")
            else:
                self.add("", "not applicable", self.refusal)
            return
        except RAISED as error:
            self.refusal = "raised"
            self.add("runs", "fail", located(error))
            return
        try:
            if self.oracle.scaled and not self._scale_is_linear():
                return
            if not self._structure():
                return
            self._know()
            if self.truths or self.claims.bound or not self.shared:
                self._compare(PASSES, self.seed)
        except RAISED as error:
            self.comparisons = {}
            self.add("runs", "fail", located(error))

    def _first_run(self) -> None:
        worker = prepared(self.estimator, self.oracle, self.seed)
        estimate(worker, self.oracle.built, self.oracle.copies(2))
        with torch.no_grad():
            self.particles = worker.score(self.oracle.built, self.oracle.batch, {}).particles

    def _scale_is_linear(self) -> bool:
        targets = self.targets
        if not targets:
            self.add("scale", "no claim", "it takes a scale and names no targets()")
            return False
        wrong = [name for name, f in targets.items() if not is_homogeneous(f, self.particles)]
        if wrong:
            told = "it takes a scale inside its weights, where it is no factor of the bound"
            self.add("scale", "fail", f"{told}: set Needs(weights=True)")
        return not wrong

    def _structure(self) -> bool:
        """The exact comparisons, from cause to consequence; False where nothing further can be measured."""
        for name, check in CHECKS.items():
            found = check(self.estimator, self.oracle, self.seed)
            if found and name == "per datum" and found.endswith(SHARED):
                self.shared = found
                continue
            self.add(name, "fail" if found else "pass", found or "")
            if found and name == "form":
                return False
            if found and name == "seed":  # the other comparisons of two runs would say nothing
                return True
        return True

    # Truths.

    def _know(self) -> None:
        """The truth of every target; the value's side where a bound is claimed."""
        targets = self.targets
        built, batch = self.oracle.built, self.oracle.batch
        found = {f: _known(truth, built, batch, f, self.particles) for f in dict.fromkeys(targets.values())}
        for target, name in (("bound", "value"), ("model", "model gradient"), ("guide", "guide gradient")):
            if target != "bound" and not self._members(target):
                continue
            if target not in targets:
                self._unclaimed(target, name)
                continue
            if target != "bound" and not self._judged(target, targets):
                self.add(name, "not applicable", "all its parameters are the guide's, too")
                continue
            known = found[targets[target]]
            if isinstance(known, Truth):
                self.truths[name] = known
            else:
                self.add(name, "not applicable", f"the truth is not known: {known}")

    def _unclaimed(self, target: str, name: str) -> None:
        biased = target in self.claims.biased
        told = "its bias is claimed" if biased else f"targets() has no {target!r}"
        self.add(
            name, "no claim", f"{told}, and there is no functional to hold it against" if biased else told
        )

    def _members(self, group: str) -> dict[str, torch.nn.Parameter]:
        return self.oracle.built.groups().get(group, {})

    def _judged(self, group: str, targets: Mapping[str, Functional]) -> dict[str, torch.nn.Parameter]:
        """The parameters of a group whose gradient is its target's: where model and guide climb different
        things, or the guide does with a bias, not those of the model that q is made of."""
        members = self._members(group)
        same = targets.get("guide") is targets.get("model") and "guide" not in self.claims.biased
        if group == "guide" or same or not members:
            return members
        terms = self.oracle.built.score(self.oracle.batch)
        log_q = [site.log_q.sum() for site in terms.sites.values() if site.log_q is not None]
        total = sum(log_q, torch.zeros(()))
        if not total.requires_grad:
            return members
        found = torch.autograd.grad(total, list(members.values()), allow_unused=True)
        return {n: p for (n, p), g in zip(members.items(), found, strict=True) if g is None}

    # Comparisons.

    def _compare(self, passes: int, seed: int, only: Iterable[str] | None = None) -> None:
        large = measure(self.estimator, self.oracle, passes, seed)
        wanted = self._compared(large)
        if only is None or "copies" in only:
            few = measure(self.estimator, self.oracle, passes, seed + 250, copies=FEW)
            wanted["copies"] = _two_samples(large, few)
        for name, comparison in wanted.items():
            if only is None or name in only:
                self.comparisons[name] = comparison

    def _compared(self, large: Estimates) -> dict[str, Comparison]:
        made: dict[str, Comparison] = {}
        rows = [f"datum {i}" for i in range(self.oracle.rows)]
        if large.bound is not None:
            if known := self.truths.get("value"):
                made["value"] = compare(rows, large.bound, known.value, known.value_error)
            if (side := self.claims.bound) and not self.oracle.scaled:
                above = _known(evidence, self.oracle.built, self.oracle.batch)
                if isinstance(above, str):
                    if "bound" not in self.comparisons:
                        self.add("bound", "not applicable", above)
                else:
                    # Only the wrong side counts: a bound that lies where it should has z = 0.
                    one = compare(rows, large.bound, above)
                    wrong = (SIDES[side] * one.z).clamp(min=0.0)
                    made["bound"] = Comparison(rows, one.truth, one.mean, wrong)
        elif "value" in self.truths:
            self.add("value", "fail", "targets() names a bound, and none is reported")
            del self.truths["value"]
        for group in ("model", "guide"):
            name = f"{group} gradient"
            if known := self.truths.get(name):
                members = self._judged(group, self.targets)
                draws = torch.cat([large.gradients[n] for n in members], 1)
                wanted = torch.cat([known.gradient[n].flatten() for n in members])
                error = torch.cat([known.gradient_error[n].flatten() for n in members])
                said = [label for n, p in members.items() for label in labels(n, p)]
                made[name] = compare(said, draws, wanted, error)
                self.bias[name] = float((draws.mean(0) - wanted).norm() / wanted.norm().clamp(min=1e-300))
        return made

    def again(self, threshold: float) -> None:
        """Measure what is off once more."""
        off = [
            name for name, c in self.comparisons.items() if self._off(c, threshold) and not self._biased(name)
        ]
        if off:
            self._compare(4 * PASSES, self.seed + 500, only=off)

    def _off(self, comparison: Comparison, threshold: float) -> bool:
        return not float(comparison.z[comparison.worst()].abs()) <= threshold

    def _biased(self, name: str) -> bool:
        return name.removesuffix(" gradient") in self.claims.biased

    def rows(self, threshold: float) -> list[OracleRow]:
        """The verdicts."""
        made, failed = [], False
        for name, comparison in self.comparisons.items():
            off, i = self._off(comparison, threshold), comparison.worst()
            verdict: Verdict = "fail" if off else "pass"
            detail = self._detail(name, comparison) if off else ""
            if self._biased(name):
                verdict = "biased" if off else "unseen"
            failed = failed or verdict == "fail"
            truth, mean, z = (float(v[i]) for v in (comparison.truth, comparison.mean, comparison.z))
            shown = None if name == "bound" and z == 0 else z  # it lies where it should
            if name == "copies":
                if off:
                    made.append(
                        OracleRow(self.oracle.name, "number of data", verdict, truth, mean, z, detail)
                    )
                continue
            made.append(OracleRow(self.oracle.name, name, verdict, truth, mean, shown, detail))
        if self.shared:  # by a baseline, which spoils nothing; by a weight, which does; or by intent
            verdict = "fail" if failed else "pass" if self.comparisons else "no claim"
            detail = "" if verdict == "pass" else self.shared
            made.append(OracleRow(self.oracle.name, "per datum", verdict, detail=detail))
        return made + self.findings

    def _detail(self, name: str, comparison: Comparison) -> str:
        label = comparison.labels[comparison.worst()]
        if name == "copies":
            return f"{label} is another in a batch of {FEW} copies of the data than in one of many"
        if name == "bound":
            side = "above" if self.claims.bound == "lower" else "below"
            return f"{label}: the mean lies {side} log p(x)"
        if name == "value":
            off = float((comparison.mean - comparison.truth)[comparison.worst()])
            return f"{label}: the mean is off by {off:+.6f} nats"
        truth, mean = comparison.truth, comparison.mean
        along = float(mean @ truth / (truth @ truth).clamp(min=1e-300))
        share = 100 * self.bias[name]
        told = f"the gradient is off by {share:.1f} % of the true one's norm"
        return f"{label}: {told}, and along it {along:.3f} times as long"


def _two_samples(large: Estimates, few: Estimates) -> Comparison:
    """The means of large batches beside those of small ones."""
    said, first, second = [], [], []
    if large.bound is not None and few.bound is not None:
        said += [f"the bound of datum {i}" for i in range(large.bound.shape[1])]
        first, second = [large.bound], [few.bound]
    for name, draws in large.gradients.items():
        said += [f"the gradient of {name}"] * draws.shape[1]
        first.append(draws)
        second.append(few.gradients[name])
    one, two = torch.cat(first, 1), torch.cat(second, 1)

    def error(draws: Tensor) -> Tensor:
        return draws.std(0) / math.sqrt(len(draws))

    truth, mean = one.mean(0), two.mean(0)
    return Comparison(said, truth, mean, deviates(mean - truth, error(two), error(one), truth, len(two) - 1))


def _known(find: Callable[..., Any], *about: Any) -> Any:
    """A truth, or in words why there is none: that it cannot be computed is no fault of the estimator."""
    try:
        return find(*about)
    except Unknown as reason:
        return str(reason)
    except Exception as error:
        return f"it cannot be computed ({located(error)})"

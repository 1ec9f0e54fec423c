"""`examine`: an estimator against every pair whose truth is known.

Statistics: each estimate of a bound (per datum) and of a derivative (per parameter) is one comparison with
its truth, by a z-score from the spread over passes. |z| may be so large that a right estimator exceeds it
somewhere with probability `LEVEL` (Bonferroni). What exceeds it is measured again, four times as long from
another seed, and the second measurement decides. All seeds follow from one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping

import torch

from ppvae import estimators
from ppvae.errors import UsageError, nearest
from ppvae.estimators.base import Estimator
from ppvae.linter.places import located
from ppvae.oracles.report import OracleReport, OracleRow, Verdict
from ppvae.oracles.subjects import Oracle, double, oracles
from ppvae.oracles.trial import Trial

LEVEL = 1e-3
TARGETS = ("bound", "model", "guide")
NAMED = 2
"""A row about so many oracles names them; one about more says how many."""


def examine(
    estimator: Estimator | str, seed: int = 0, subjects: Iterable[Oracle] | None = None
) -> OracleReport:
    """Hold an estimator's value, gradients and claims against exact truths.

    Args:
        estimator: one of ours or of the user's own, or a text that `ppvae.estimators.find` takes.
        seed: of all draws.
        subjects: the oracles; by default all.

    An oracle that the estimator refuses is "not applicable", with the line of the refusal. An exception in
    the estimator's code is a failure of "runs"; nothing is raised. The estimator itself stays as it is.

    Raises:
        UsageError: a text that names no estimator; one of ours with a beta or free bits, which its targets
            are not about; one whose targets() are no functionals by target.
    """
    started = time.monotonic()
    name = estimator if isinstance(estimator, str) else estimators.spelled(estimator)
    found = estimators.find(estimator)
    _refuse_options(found, name)
    _refuse_targets(found)
    with torch.random.fork_rng(devices=[]), double(), torch.enable_grad():
        subjects = oracles() if subjects is None else subjects
        trials = [Trial(found, oracle, 1000 * seed + i) for i, oracle in enumerate(subjects)]
        for trial in trials:
            trial.prepare(refused={t.oracle.name for t in trials if t.refusal})
        count = sum(len(c.z) for trial in trials for c in trial.comparisons.values())
        threshold = _threshold(count)
        for trial in trials:
            trial.again(threshold)
        rows = [row for trial in trials for row in trial.rows(threshold)]
    return OracleReport(name, _grouped(rows), count, threshold, seed, time.monotonic() - started)


def _refuse_options(estimator: Estimator, name: str) -> None:
    if type(estimator) not in estimators.ESTIMATORS.values():
        return  # the user's own may mean what it likes
    for option, default in (("beta", 1.0), ("free_bits", 0.0)):
        if getattr(estimator, option, default) != default:
            raise UsageError(
                f"{name} is held against what it estimates with {option}={default:g}: leave {option} out"
            )


def _refuse_targets(estimator: Estimator) -> None:
    name = type(estimator).__name__
    if "sites" not in vars(estimator):
        raise UsageError(f"{name} was never set up: call super().__init__(particles) in its __init__")
    targets = estimator.targets()
    if not isinstance(targets, Mapping):
        told = f"targets() of {name} returned a {type(targets).__name__}"
        raise UsageError(f"{told}: return a dictionary such as {{'bound': log_mean_exp}}")
    rows = 4 if estimator.particles == 3 else 3
    log_weight = torch.randn(estimator.particles, rows, generator=torch.Generator().manual_seed(0))
    for target, functional in targets.items():
        if target not in TARGETS:
            close = nearest(str(target), TARGETS) or "."
            raise UsageError(f"targets() of {name} names {target!r}{close} There are: {', '.join(TARGETS)}")
        wanted = "it takes log-weights (K, B) to one number per datum, (B,)"
        try:
            found = functional(log_weight)
        except Exception as error:
            raise UsageError(f"targets()[{target!r}] of {name}: {located(error)}: {wanted}") from error
        if not isinstance(found, torch.Tensor) or found.shape != (rows,):
            said = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise UsageError(f"targets()[{target!r}] of {name} made {said} of {rows} data: {wanted}")


def _threshold(comparisons: int) -> float:
    """|z| that a right estimator exceeds in one of so many comparisons with probability `LEVEL`."""
    share = torch.tensor(LEVEL / (2 * max(comparisons, 1)), dtype=torch.float64)
    return -float(torch.special.ndtri(share))


def _grouped(rows: list[OracleRow]) -> list[OracleRow]:
    """One row for what is the same on several oracles; a row with numbers stands for itself."""
    kept: list[OracleRow] = []
    together: dict[tuple[str, Verdict, str], list[OracleRow]] = {}
    for row in rows:
        if row.truth is None:
            together.setdefault((row.property, row.verdict, row.detail), []).append(row)
        else:
            kept.append(row)
    for rows in together.values():
        names = [row.oracle for row in rows]
        where = ", ".join(names) if len(names) <= NAMED else f"{len(names)} oracles"
        kept.append(dataclasses.replace(rows[0], oracle=where))
    return kept

"""The gradient laboratory: how the estimators of one gradient differ, at one setting of the parameters and on
one batch.

Each estimator is asked for its gradient R times, under random numbers of its own; the estimators take turns,
in shuffled order, so that a machine that is busy for a while is so for all. The first half of the repeats
learns directions (of the mean, of the bias), the second half is projected on them. See `measures` for the
formulas.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.comparison.findings import Laboratory
from ppvae.comparison.participants import Settling, Subject, Truth, seeded
from ppvae.comparison.references import reference_for
from ppvae.errors import UsageError
from ppvae.estimators import Estimator


def probe(
    built: Built,
    batch: Mapping[str, Tensor],
    estimators: Mapping[str, Estimator],
    *,
    repeats: int = 200,
    seed: int = 0,
    step: int = 0,
    settle: int = 200,
    settle_on: Callable[[int], Mapping[str, Tensor]] | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Laboratory:
    """Probe the estimators at the parameters of `built`, which stay as they are, on one batch.

    Args:
        estimators: by the name to show.
        repeats: gradients of each; the errors of all that is said fall as 1 / sqrt(repeats).
        step: the step of training that scheduled knobs, such as a temperature, are taken from.
        settle: steps of their own that baselines and other parts with a state get first, the pair's
            parameters being held; then they are held, too.
        settle_on: the batch of their i-th step. A baseline that learns on the probed batch itself knows it
            by heart, and looks better than it is in training; none: that batch nevertheless.
        told: called with the number of gradients done and their total.

    Raises:
        UsageError: fewer than 8 repeats.
    """
    if repeats < 8:
        raise UsageError(f"repeats={repeats} tell nothing of a spread: use at least 8, better 200")
    devices = [built.device] if built.device is not None and built.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False), _in_training(built):
        settling = Settling(settle, settle_on or (lambda _: batch))
        subjects = [Subject(n, e, built, batch, seed, step, settling) for n, e in estimators.items()]
        working = [subject for subject in subjects if subject.at_work]
        truths = _truths(working, built, batch, seed)
        halves = (repeats // 2, repeats - repeats // 2)
        total, done = repeats * (len(working) + len(truths)), 0
        for half, count in enumerate(halves):
            for repeat in range(half * halves[0], half * halves[0] + count):
                takers = [*truths.values(), *working]
                random.Random(repeat).shuffle(takers)  # nobody always follows the slowest
                for taker in takers:
                    taker.take(repeat)
                    done += 1
                    told(done, total)
            if half == 0:
                for subject in working:
                    if subject.at_work:
                        subject.learn(truths)
        return Laboratory(
            probes=[subject.found(truths) for subject in subjects],
            repeats=repeats,
            rows=max((len(value) for value in batch.values()), default=1),
            parameters={group: sum(p.numel() for p in m.values()) for group, m in built.groups().items()},
            step=step,
            seed=seed,
            **_known(built, batch),
        )


@contextmanager
def _in_training(built: Built) -> Iterator[None]:
    """Inside, all modules train; then each has its own flag back, and a BatchNorm what it had counted."""
    buffers = [(buffer, buffer.clone()) for buffer in built.buffers()]
    with built.in_eval_mode():
        try:
            built.train()
            yield
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


def _known(built: Built, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """The exact elbo and evidence of the batch, where the pair knows them."""
    inputs, found = built.inputs(batch), {}
    with torch.no_grad(), built.local(), built.in_eval_mode():
        if (elbo := getattr(built.pair, "elbo", None)) is not None:
            found["exact_elbo"] = float(elbo(built.model, built.guide, inputs).mean())
        if built.pair.evidence is not None:
            found["evidence"] = float(built.pair.evidence(built.model, inputs).mean())
    return found


def _truths(
    subjects: list[Subject], built: Built, batch: Mapping[str, Tensor], seed: int
) -> dict[str, Truth]:
    """One reference a target, by the target's key."""
    targets = {target.key: target for subject in subjects for target in subject.targets.values()}
    found = {}
    for key, target in targets.items():
        seeded("reference", key, seed)
        reference = reference_for(target, built, batch)
        if reference is not None:
            found[key] = Truth(reference, key, seed)
    return found

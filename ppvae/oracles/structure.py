"""What must hold of an estimator whatever it estimates: exact comparisons of two runs from one random state.

form            the bound is (B,), the losses are finite scalars
seed            one seed, one result
.grad           an estimate adds nothing to `.grad` and moves no parameter of the pair
state           what it remembers is in parameters and buffers: a copy with its state_dict goes on as it does
per datum       the data of a batch do not see each other
number of data  N is nothing to a pair whose latents are all local; nor is a data plate that says N
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ppvae.estimators.base import Estimator
from ppvae.oracles.measuring import estimate, prepared
from ppvae.oracles.subjects import Oracle, named

SHARED = "depends on several data at once"
"""Said where data see each other, which a baseline may and a weight must not."""
COPIES = 4
MANY = 1_000_000
Result = dict[str, Tensor]


def form(estimator: Estimator, oracle: Oracle, seed: int) -> str | None:
    worker = prepared(estimator, oracle, seed)
    torch.manual_seed(seed)
    batch = oracle.copies(COPIES)
    objective, _ = estimate(worker, oracle.built, batch)
    rows = COPIES * oracle.rows
    if objective.bound is not None and objective.bound.shape != (rows,):
        return (
            f"the bound has shape {tuple(objective.bound.shape)} for {rows} data: report one number a datum"
        )
    for group, loss in objective.losses.items():
        if loss.dim():
            return f"the loss of {group!r} has shape {tuple(loss.shape)}: take the mean over the batch"
        if not math.isfinite(float(loss.detach())):
            return f"the loss of {group!r} is {float(loss.detach())}"
    return None


def seed_decides(estimator: Estimator, oracle: Oracle, seed: int) -> str | None:
    first, second = (_run(estimator, oracle, oracle.batch, seed) for _ in range(2))
    return _differing(first, second, exact=True, said="differs between two runs from one seed")


def leaves_grad_alone(estimator: Estimator, oracle: Oracle, seed: int) -> str | None:
    worker = prepared(estimator, oracle, seed)
    watched = {
        **dict(oracle.built.named_parameters()),
        **{f"estimator.{n}": p for n, p in worker.named_parameters()},
    }
    values = {name: p.detach().clone() for name, p in oracle.built.named_parameters()}
    for p in watched.values():
        p.grad = torch.full_like(p, 0.5)
    try:
        torch.manual_seed(seed)
        estimate(worker, oracle.built, oracle.batch)
        for name, p in watched.items():
            if p.grad is None or not bool((p.grad == 0.5).all()):
                return f"an estimate changes the .grad of {name}: take gradients by torch.autograd.grad"
        for name, p in oracle.built.named_parameters():
            if not torch.equal(p.detach(), values[name]):
                return f"an estimate changes the parameter {name}"
    finally:
        for p in watched.values():
            p.grad = None
    return None


def state_is_saved(estimator: Estimator, oracle: Oracle, seed: int) -> str | None:
    fresh = prepared(estimator, oracle, seed)
    used = copy.deepcopy(fresh)
    torch.manual_seed(seed)
    for _ in range(3):
        estimate(used, oracle.built, oracle.batch)
    resumed = copy.deepcopy(fresh)
    try:
        resumed.load_state_dict(used.state_dict())
    except RuntimeError as error:
        return f"its state_dict does not fit a prepared copy: {' '.join(str(error).split())}"
    results = []
    changed = [n for n, v in vars(used).items() if n[0] != "_" and _unlike(v, vars(fresh).get(n))]
    for one in (used, resumed):
        torch.manual_seed(seed)
        results.append(_result(one, oracle, oracle.batch))
    where = f", kept in {', '.join(changed)}" if changed else ""
    told = f"depends on what is not saved{where}: use register_buffer"
    return _differing(*results, exact=True, said=told)


def _unlike(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return not torch.equal(a, b)
    try:
        return bool(a != b)
    except (RuntimeError, ValueError):
        return True


def per_datum(estimator: Estimator, oracle: Oracle, seed: int) -> str | None:
    """In a batch of two halves, a sum over data satisfies g(a, b) + g(c, d) = g(a, d) + g(c, b)."""

    def halves(left: int, right: int) -> Result:
        index = torch.tensor([left] * COPIES + [right] * COPIES)
        return _run(estimator, oracle, {name: value[index] for name, value in oracle.batch.items()}, seed)

    same, other = halves(0, 0), halves(1, 1)
    mixed, reverse = halves(0, 1), halves(1, 0)
    bound = same.get("the bound")
    if bound is not None and not bool((bound == bound[0]).all()):  # an expanded mean is judged as a mean
        for left, right in ((same, mixed), (other, reverse)):
            one, two = left["the bound"][:COPIES], right["the bound"][:COPIES]
            if not torch.allclose(one, two, rtol=1e-9, atol=1e-9):
                return "the bound of a datum depends on the other data"
    straight = {
        n: same[n].mean(0) + other[n].mean(0) if n == "the bound" else same[n] + other[n] for n in same
    }
    crossed = {
        n: mixed[n].mean(0) + reverse[n].mean(0) if n == "the bound" else mixed[n] + reverse[n] for n in same
    }
    return _differing(straight, crossed, said=SHARED)


def number_of_data(estimator: Estimator, oracle: Oracle, seed: int) -> str | None:
    with _saying(oracle, None):
        first = _run(estimator, oracle, oracle.batch, seed)
    with _saying(oracle, MANY):
        second = _run(estimator, oracle, oracle.batch, seed)
    told = "changes with N, which only global latents know"
    if found := _differing(first, second, said=told):
        return found
    if oracle.name not in ("one_bit", "gaussian"):
        return None
    subsampled = named(oracle.name, num_data=MANY)
    second = _run(estimator, subsampled, subsampled.batch, seed)
    return _differing(first, second, said="changes when the data plate says N: its scale is not of log w")


@contextmanager
def _saying(oracle: Oracle, num_data: int | None) -> Iterator[None]:
    before = oracle.built.num_data
    oracle.built.num_data = num_data
    try:
        yield
    finally:
        oracle.built.num_data = before


def _run(estimator: Estimator, oracle: Oracle, batch: Mapping[str, Tensor], seed: int) -> Result:
    """A fresh copy's estimate of a batch from one random state."""
    worker = prepared(estimator, oracle, seed)
    torch.manual_seed(seed)
    return _result(worker, oracle, batch)


def _result(worker: Estimator, oracle: Oracle, batch: Mapping[str, Tensor]) -> Result:
    objective, gradients = estimate(worker, oracle.built, batch)
    bound = {} if objective.bound is None else {"the bound": objective.bound.detach()}
    return bound | {f"the gradient of {name}": g for name, g in gradients.items()}


def _differing(first: Result, second: Result, said: str, exact: bool = False) -> str | None:
    tolerance = 0.0 if exact else 1e-9
    for name in first:
        if not torch.allclose(first[name], second[name], rtol=tolerance, atol=tolerance, equal_nan=True):
            return f"{name} {said}"
    return None


Check = Callable[[Estimator, Oracle, int], str | None]
CHECKS: dict[str, Check] = {
    "form": form,
    "seed": seed_decides,
    ".grad": leaves_grad_alone,
    "state": state_is_saved,
    "per datum": per_datum,
    "number of data": number_of_data,
}
"""By property: None where it holds, else what does not."""

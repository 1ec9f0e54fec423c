"""A loss or a gradient that is not finite: named by site, parameter and data, left out or stopped for."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppvae import fit
from ppvae.data import Dataset, Split
from ppvae.errors import RunError
from ppvae.estimators import ELBO
from ppvae.pair import Pair
from tests.toys import MLP_VAE, GaussianGuide, bits, dataset

QUICK: dict[str, Any] = {"batch": 4, "check": False, "progress": False, "log_every": 2}


def model(x=None, *, n=None):
    """Extreme data have a density too small for float32."""
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        return pyro.sample("x", dist.Normal(z, 1.0), obs=x)


PAIR = Pair(model=model, guide=GaussianGuide, data=None)


def numbers(*bad: int) -> Dataset:
    x = torch.arange(1.0, 21.0)
    x[list(bad)] = 1e30
    return Dataset(name="toy", train=Split({"x": x}))


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_the_site_and_the_rows_are_named(engine):
    with pytest.raises(
        RunError,
        match=r"the loss became inf in step \d: log p of site 'x' is -inf for 1 of 4 data, rows 7; use",
    ):
        fit(PAIR, numbers(7), epochs=1, engine=engine, **QUICK)


def test_no_parameter_has_moved_by_it():
    seen: list[Any] = []

    class Watched(ELBO):
        def objective(self, terms, knobs):
            seen.append(float(terms.sites["z"].q.loc.reshape(-1)[0]))
            return super().objective(terms, knobs)

    with pytest.raises(RunError):
        fit(PAIR, numbers(*range(20)), Watched(), epochs=1, **QUICK)
    assert set(seen) == {seen[0]}


def test_skipped_steps_are_counted_and_training_goes_on():
    trained = fit(PAIR, numbers(7), epochs=4, on_nonfinite="skip", **QUICK)
    assert trained.step == 20
    assert sum(entry.get("skipped", 0) for entry in trained.history) == 4  # once an epoch
    assert all(math.isfinite(entry["loss"]) for entry in trained.history if "loss" in entry)
    assert all(bool(p.isfinite().all()) for p in trained.built.parameters())


def test_where_all_steps_are_skipped_it_stops():
    with pytest.raises(RunError, match="between steps 1 and 2: log p of site 'x' is -inf for 4 of 4"):
        fit(PAIR, numbers(*range(20)), epochs=1, on_nonfinite="skip", **QUICK)


class Steep(ELBO):
    """A finite loss with a gradient that is not: the root at zero."""

    def objective(self, terms, knobs):
        found = super().objective(terms, knobs)
        zero = 0 * found.losses["all"]
        found.losses["all"] = found.losses["all"] + zero.sqrt()
        return found


def test_a_gradient_is_named_by_its_parameter():
    with pytest.raises(
        RunError,
        match=r"a gradient is not finite in step 1: the gradient of \S+ has nan, while all terms are",
    ):
        fit(MLP_VAE, dataset(bits(8)), Steep(), epochs=1, **QUICK)


class Lost(ELBO):
    """An objective that is not finite though its terms are."""

    def objective(self, terms, knobs):
        found = super().objective(terms, knobs)
        found.losses["all"] = found.losses["all"].detach() * math.inf + found.losses["all"]
        return found


def test_an_objective_is_named_by_its_estimator():
    with pytest.raises(RunError, match="the objective of Lost is not finite, while all terms are"):
        fit(MLP_VAE, dataset(bits(8)), Lost(), epochs=1, **QUICK)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "adamax"])
def test_every_optimizer_skips(optimizer):
    trained = fit(PAIR, numbers(7), epochs=2, on_nonfinite="skip", optimizer=optimizer, **QUICK)
    assert all(bool(p.isfinite().all()) for p in trained.built.parameters())

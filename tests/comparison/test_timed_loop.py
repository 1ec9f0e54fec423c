"""A loop that looks at test data: it trains what `fit` trains, and its clock stands while it looks."""

from functools import partial
from typing import Any

import pytest
import torch

from ppvae.comparison import timed_loop
from ppvae.comparison.timed_loop import LOOK_EVERY, UNENDING, Diverged, TimedLoop
from ppvae.config import TrainConfig
from ppvae.engine import EagerStep
from ppvae.estimators import ELBO, find
from ppvae.evaluation import mean_terms
from ppvae.training import fit, run_loop
from tests.comparison.small import numbers

OPTIONS: dict[str, Any] = {"batch": 20, "check": False, "progress": False, "eval_k": 0}


class Clock:
    """Seconds that pass only where they are told to."""

    def __init__(self, monkeypatch, step: float = 1.0):
        self.now = 0.0
        monkeypatch.setattr(timed_loop.time, "perf_counter", lambda: self.now)
        real = EagerStep.__call__

        def stepped(*args):
            self.now += step
            return real(*args)

        monkeypatch.setattr(EagerStep, "__call__", stepped)


def run(look, points=2, budget_seconds=None, estimator="elbo", told=lambda *_: None, **options):
    made = []

    def make(*args):
        made.append(TimedLoop(*args, look=look, points=points, budget_seconds=budget_seconds, told=told))
        return made[0]

    config = TrainConfig(**{"steps": 7, **OPTIONS, **options})
    trained = run_loop("ppca_mean_field", numbers(), find(estimator), config, make=make)
    return made[0], trained


def test_points_are_dense_where_much_changes():
    steps = []
    run(lambda loop: steps.append(loop.step_count), points=4, steps=16)
    assert steps == [0, 1, 4, 9, 16]


def test_the_end_is_a_point_once():
    steps = []
    run(lambda loop: steps.append(loop.step_count), points=3, steps=7)
    assert steps == [0, 1, 3, 7]


def test_looking_changes_nothing_that_is_trained():
    def look(loop):
        mean_terms(loop.built, loop.dataset.fixed("test"), seed=1)

    _, trained = run(look, points=7)
    plain = fit("ppca_mean_field", numbers(), config=TrainConfig(steps=7, **OPTIONS))
    for name, value in plain.built.state_dict().items():
        assert torch.equal(value, trained.built.state_dict()[name]), name
    assert [e["loss"] for e in trained.history if "loss" in e] == [
        e["loss"] for e in plain.history if "loss" in e
    ]


def test_the_clock_stands_while_it_looks(monkeypatch):
    clock = Clock(monkeypatch)
    seen = []

    def look(loop):
        clock.now += 100.0
        seen.append(loop.spent)

    loop, _ = run(look, points=4, steps=16)
    assert seen == [0.0, 1.0, 4.0, 9.0, 16.0]
    assert loop.spent == 16.0


def test_the_clock_stands_while_a_checkpoint_is_kept(monkeypatch, tmp_path):
    clock = Clock(monkeypatch)
    monkeypatch.setattr("ppvae.training.keep", lambda loop: setattr(clock, "now", clock.now + 50.0))
    made = []

    def make(*args):
        made.append(TimedLoop(*args, look=lambda loop: None, points=1))
        return made[0]

    config = TrainConfig(steps=4, out=tmp_path, **OPTIONS)
    run_loop("ppca_mean_field", numbers(), ELBO(), config, make=make, save=True)
    assert clock.now == 54.0
    assert made[0].spent == 4.0


def test_a_budget_in_seconds(monkeypatch):
    """A step takes 1.5 s; after 20 seconds the next look at the clock, at step 20, ends it."""
    clock = Clock(monkeypatch, step=1.5)
    seen = []

    def look(loop):
        clock.now += 100.0
        seen.append((loop.step_count, loop.spent))

    loop, trained = run(look, points=2, budget_seconds=20.0, steps=UNENDING)
    assert trained.step == 2 * LOOK_EVERY
    assert loop.spent == 30.0
    assert seen == [(0, 0.0), (10, 15.0), (20, 30.0)]


def test_how_far_it_is_is_told(monkeypatch):
    shares = []
    run(
        lambda loop: None,
        told=lambda share, entry: shares.append((share, "elbo" in entry)),
        log_every=2,
        steps=4,
    )
    assert shares == [(0.5, True), (1.0, True)]
    Clock(monkeypatch)
    shares.clear()
    run(
        lambda loop: None,
        told=lambda s, e: shares.append(s),
        budget_seconds=40.0,
        log_every=10,
        steps=UNENDING,
    )
    assert shares == [0.0, 0.25, 0.5, 0.75]  # the clock is read after the line is written


def test_validation_data_take_no_part(monkeypatch):
    monkeypatch.setattr("ppvae.loop.validation_elbo", partial(pytest.fail, "validated"))
    run(lambda loop: None)


def test_a_loss_that_is_no_number_is_told_apart():
    with pytest.raises(Diverged, match="the loss became"):
        run(lambda loop: None, lr=1e30, optimizer="sgd", steps=20)
    with pytest.raises(Diverged, match="the loss became"):
        run(lambda loop: None, lr=1e30, optimizer="sgd", steps=UNENDING, budget_seconds=1e-9)

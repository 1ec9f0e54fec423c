"""The means that are logged: over the finite steps, with one addition a step."""

import math

import pytest
import torch

from ppvae.window import Window

YES, NO = torch.tensor(True), torch.tensor(False)


def scalars(**values: float):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_means_and_what_was_skipped():
    window = Window()
    window.add(scalars(loss=1.0, elbo=-1.0), YES)
    window.add(scalars(loss=math.nan, elbo=math.inf), NO)
    window.add(scalars(loss=3.0, elbo=-3.0), YES)
    assert window.means() == ({"loss": 2.0, "elbo": -2.0}, 1)
    assert window.count == 3
    window.clear()
    assert (window.count, window.means()) == (0, ({}, 0))


def test_where_no_step_was_finite_there_is_no_mean():
    window = Window()
    window.add(scalars(loss=math.nan), NO)
    means, skipped = window.means()
    assert math.isnan(means["loss"])
    assert skipped == 1


def test_it_goes_on_from_saved_sums():
    window, again = Window(), Window()
    for target in (window,):
        target.add(scalars(loss=1.0), YES)
        target.add(scalars(loss=9.0), NO)
    again.restore(window.sums, window.count)
    for target in (window, again):
        target.add(scalars(loss=2.0), YES)
    assert again.means() == window.means() == ({"loss": 1.5}, 1)
    assert again.count == 3


def test_steps_may_log_different_things():
    window = Window()
    window.add(scalars(loss=1.0), YES)
    window.add(scalars(loss=3.0, extra=4.0), YES)
    means, skipped = window.means()
    assert means["loss"] == pytest.approx(2.0)
    assert skipped == 0

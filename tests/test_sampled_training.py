"""Training on a sample of the data, and what of an estimator starts from the seed."""

from typing import Any

import pytest
import torch
from torch import nn

import ppvae
from ppvae.data import seeded
from ppvae.errors import RunError, UsageError
from ppvae.estimators import ELBO
from ppvae.trained import SAMPLE_SEED
from tests.test_training import assert_equal, state, three_way

QUICK: dict[str, Any] = {"check": False, "progress": False, "steps": 2, "batch": 10}


def test_the_sample_is_the_same_for_every_seed_and_the_rest_of_the_data_as_they_were():
    whole = three_way()
    found = [ppvae.fit("ppca", whole, train_n=25, seed=seed, **QUICK).dataset for seed in (0, 1)]
    order = seeded.permutation(60, SAMPLE_SEED)[:25]
    for dataset in found:
        assert dataset is not None
        assert torch.equal(dataset.train.fields["x"], whole.train.fields["x"][order])
        assert dataset.test is whole.test
        assert dataset.hash != whole.hash
        assert dataset.hash == found[0].hash  # type: ignore[union-attr]


def test_an_epoch_is_one_of_the_sample():
    trained = ppvae.fit("ppca", three_way(), train_n=20, **{**QUICK, "steps": None}, epochs=3)
    assert trained.step == 6
    assert trained.built.num_data == 20


def test_all_of_the_data_are_a_sample_too_and_more_are_refused():
    assert ppvae.fit("ppca", three_way(), train_n=60, **QUICK).dataset is not None
    with pytest.raises(UsageError, match="train_n=61 is more than the 60 training data: use at most 60"):
        ppvae.fit("ppca", three_way(), train_n=61, **QUICK)
    with pytest.raises(UsageError, match="train_n=0 is too small"):
        ppvae.fit("ppca", three_way(), train_n=0, **QUICK)


def test_a_run_on_a_sample_is_loaded_evaluated_and_gone_on_with(tmp_path):
    """A saved run knows its sample: the same bits as without stopping."""
    options = {**QUICK, "train_n": 30, "out": tmp_path}
    first = ppvae.fit("ppca", "ppca_toy", save=True, **options)
    assert first.run is not None
    assert first.dataset is not None
    loaded = ppvae.load(first.run.path)
    assert loaded.dataset is not None
    assert loaded.dataset.hash == first.dataset.hash
    assert loaded.evaluate(k=2, n=4)["elbo"] == first.evaluate(k=2, n=4)["elbo"]
    further = ppvae.fit("ppca", resume=first.run.path, steps=5)
    whole = ppvae.fit("ppca", "ppca_toy", **{**options, "steps": 5})
    assert_equal(state(further), state(whole))
    with pytest.raises(RunError, match="has train_n=30, not 40"):
        ppvae.fit("ppca", resume=first.run.path, train_n=40)


class WithNet(ELBO):
    """Makes a net when it first sees the pair, as learned baselines do."""

    def prepare(self, built, batch):
        if not hasattr(self, "net"):
            self.net = nn.Linear(3, 3)


def test_what_an_estimator_makes_starts_from_the_seed():
    made, trained = [], []
    for noise in (1, 2):
        torch.manual_seed(noise)  # the caller's generator
        estimator = WithNet()
        trained.append(state(ppvae.fit("ppca", three_way(), estimator, seed=3, **QUICK)))
        made.append(estimator.net.weight.detach().clone())
    assert torch.equal(made[0], made[1])
    assert_equal(trained[0], trained[1])


def test_what_an_estimator_makes_moves_no_draw_of_the_training():
    with_net = ppvae.fit("ppca_mean_field", three_way(), WithNet(), **QUICK)
    without = ppvae.fit("ppca_mean_field", three_way(), ELBO(), **QUICK)
    assert_equal(state(with_net), state(without))

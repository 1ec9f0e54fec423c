"""Splits: drawn, named and given."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppvae.data import load
from ppvae.errors import DataError, UsageError

ROWS = {"x": np.arange(40.0)[:, None], "y": np.arange(40)}


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(5, 120),
    valid=st.one_of(st.none(), st.integers(0, 2), st.floats(0, 0.4)),
    test=st.one_of(st.none(), st.integers(0, 2), st.floats(0, 0.4)),
    seed=st.integers(0, 99),
)
def test_splits_partition_the_data(n, valid, test, seed):
    x = np.arange(n, dtype=np.float64)[:, None]
    data = load({"x": x, "y": np.arange(n)}, valid=valid, test=test, seed=seed)
    rows = torch.cat([split.fields["x"][:, 0] for split in data.splits.values()])
    assert sorted(rows.tolist()) == list(range(n))
    for split in data.splits.values():
        assert torch.equal(split.fields["x"][:, 0].long(), split.fields["y"].long())
    again = load({"x": x, "y": np.arange(n)}, valid=valid, test=test, seed=seed)
    assert again.hash == data.hash


def test_sizes_and_seeds():
    sizes = lambda **options: {k: len(v) for k, v in load(ROWS, **options).splits.items()}  # noqa: E731
    assert sizes() == {"train": 32, "valid": 4, "test": 4}
    assert sizes(valid=0) == {"train": 36, "test": 4}
    assert sizes(valid=0.25, test=7) == {"train": 23, "valid": 10, "test": 7}
    assert sizes(valid=np.int64(3), test=np.float32(0.5)) == {"train": 17, "valid": 3, "test": 20}
    assert load(ROWS, seed=0).hash != load(ROWS, seed=1).hash
    test0, test1 = (load(ROWS, seed=s).splits["test"].fields["y"].tolist() for s in (0, 1))
    assert test0 != test1


X, Y = np.arange(6.0).reshape(3, 2), np.arange(3)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x_train": X, "y_train": Y, "x_test": X + 1, "y_test": Y + 1},
        {"train": X, "train_labels": Y, "test": X + 1, "test_labels": Y + 1},
        {"train_images": X, "train_labels": Y, "test_images": X + 1, "test_labels": Y + 1},
        {"train": {"x": X, "y": Y}, "test": {"images": X + 1, "targets": Y + 1}},
    ],
)
def test_named_splits(arrays):
    data = load(arrays)
    assert list(data.splits) == ["train", "test"]  # what is there is not split further unless asked
    assert torch.equal(data.train.fields["x"], torch.from_numpy(X))
    assert data.splits["test"].fields["y"].tolist() == [1, 2, 3]
    assert {k: len(v) for k, v in load(arrays, valid=1).splits.items()} == {"train": 2, "valid": 1, "test": 3}


@pytest.mark.parametrize("word", ["valid", "val", "validation", "dev"])
def test_words_for_valid(word):
    assert len(load({"x_train": X, f"x_{word}": X[:2]}).splits["valid"]) == 2


def test_given_splits():
    data = load(X, valid=X[:1], test={"x": X[:2]})
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 3, "valid": 1, "test": 2}
    assert torch.equal(data.train.fields["x"], torch.from_numpy(X))  # in order, nothing taken
    assert {k: len(v) for k, v in load(X, test=X[:1], valid=1).splits.items()} == {
        "train": 2,
        "valid": 1,
        "test": 1,
    }


@pytest.mark.parametrize(
    ("what", "options", "error", "fix"),
    [
        (
            X[:1],
            {},
            DataError,
            "has 1 row, and 1 for valid and 1 for test leave none to train on; give more data",
        ),
        (X[:2], {}, DataError, "valid=0, test=0"),
        (X, {"valid": 3, "test": 0}, DataError, "leave none to train on"),
        (X, {"valid": 1.0}, UsageError, "give a fraction in (0, 1), a count, or 0 for none"),
        (X, {"valid": -1}, UsageError, "give a fraction"),
        (X, {"test": float("nan")}, UsageError, "give a fraction"),
        (X, {"test": True}, UsageError, "give a fraction"),
        ("digits", {"valid": 100}, DataError, "has a valid split of its own; leave valid out"),
        ("bars", {"test": X}, UsageError, "give a fraction"),
        ({"x_train": X, "x_test": X}, {"test": 0.1}, DataError, "leave test out"),
        ({"x_train": X, "x_test": X}, {"test": X}, DataError, "leave test out"),
        (X, {"test": {"x_train": X, "x_test": X}}, DataError, "give one of them"),
        (X, {"seed": -1}, UsageError, "give a whole number from 0 on"),
    ],
)
def test_sizes_that_do_not_fit(what, options, error, fix):
    with pytest.raises(error) as caught:
        load(what, **options)
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataset_comes_back_as_it_is():
    data = load(ROWS)
    assert load(data) is data
    with pytest.raises(UsageError, match="leave valid and test out"):
        load(data, valid=0.1)


def test_one_row_is_enough_to_train_on_when_nothing_is_taken():
    assert load(X[:1], valid=0, test=0).num_data == 1

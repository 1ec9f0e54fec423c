"""Arrays of any make: what they become, and the one line for each that cannot be used."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ppvae.data import load
from ppvae.errors import DataError, PPVAEError

ALL: Any = {"valid": 0, "test": 0}


def batch(what, **options):
    data = load(what, **ALL, **options)
    return data.train.batch(torch.arange(len(data.train)))


# --- values ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(x=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5)))
def test_byte_pictures_survive_as_bytes_and_as_floats(x):
    """uint8 and the same picture as float32 x / 255 are stored alike, and give the same float32."""
    x[..., :1, :1] = 200  # grey somewhere, else they are bits
    as_bytes, as_floats = load(x, **ALL), load(torch.from_numpy(x) / 255, **ALL)
    assert as_bytes.hash == as_floats.hash
    if x.shape[1] in (1, 3, 4) or x.shape[-1] not in (1, 3, 4):
        assert torch.equal(batch(x)["x"], torch.from_numpy(x) / 255)


@settings(deadline=None, max_examples=40)
@given(
    x=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 6), st.integers(1, 4)),
        elements=st.floats(-100, 100, width=32),
    )
)
def test_floats_come_back_bit_for_bit_in_their_own_type(x):
    y = batch(x)["x"]
    assert y.numpy().dtype == x.dtype
    np.testing.assert_array_equal(y.numpy(), x)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_bits_of_any_type_are_stored_as_bits(dtype):
    x = torch.tensor([[0, 1], [1, 1], [0, 0]]).to(dtype)
    data = load(x, **ALL)
    assert data.levels == 2
    assert data.train.fields["x"].dtype == torch.uint8
    assert torch.equal(batch(x)["x"], x.float())


def test_float64_bits_stay_float64():
    assert batch(torch.eye(3, dtype=torch.float64))["x"].dtype == torch.float64


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint16, ">i4", np.int64])
def test_counts_stay_whole_numbers(dtype):
    x = np.array([[0, 3], [300, 7]], dtype=dtype)
    y = batch(x)["x"]
    assert y.dtype == torch.int64
    assert y.tolist() == x.tolist()
    assert load(x, **ALL).levels is None


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.uint8])
def test_labels_are_stored_small_and_read_as_int64(dtype):
    data = load({"x": torch.randn(4, 2), "y": torch.tensor([0, 5, 1, 2], dtype=dtype)}, **ALL)
    assert data.train.fields["y"].dtype == torch.uint8
    assert data.train.batch(torch.arange(4))["y"].tolist() == [0, 5, 1, 2]
    assert data.num_classes() == 6
    signed = load({"x": torch.randn(2, 2), "y": torch.tensor([-1, 300])}, **ALL)
    assert signed.train.batch(torch.arange(2))["y"].tolist() == [-1, 300]


def test_labels_of_text_become_classes():
    data = load({"x": np.ones((3, 2)), "y": np.array(["cat", "ant", "cat"])}, **ALL)
    assert data.classes == ("ant", "cat")
    assert data.train.fields["y"].tolist() == [1, 0, 1]


def test_the_callers_array_is_neither_changed_nor_shared():
    x = np.array([[1.5, np.nan]])
    x.flags.writeable = False
    data = load(x, **ALL)
    tensor = torch.randn(3, 2)
    other = load(tensor, **ALL)
    before = other.train.fields["x"].clone()
    tensor.zero_()
    assert torch.equal(other.train.fields["x"], before)
    assert data.train.fields["x"].tolist() == [[1.5, 0.0]]
    assert np.isnan(x[0, 1])


def test_grad_big_endian_strides_and_half_precision():
    assert not batch(torch.randn(3, 2, requires_grad=True))["x"].requires_grad
    assert batch(np.array([[1.5, 2.5]], dtype=">f4")[:, ::-1])["x"].tolist() == [[2.5, 1.5]]
    assert batch(torch.tensor([[1.5]], dtype=torch.bfloat16))["x"].dtype == torch.float32
    assert batch(np.array([[1.5]], dtype=np.longdouble))["x"].dtype == torch.float64


# --- layout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "event"),
    [
        ((5, 8, 9), np.uint8, (1, 8, 9)),
        ((5, 8, 9), bool, (1, 8, 9)),
        ((5, 8, 9), np.float32, (8, 9)),
        ((5, 8, 9, 3), np.uint8, (3, 8, 9)),
        ((5, 8, 9, 3), np.float32, (3, 8, 9)),
        ((5, 3, 8, 9), np.uint8, (3, 8, 9)),
        ((5, 1, 8, 4), np.uint8, (1, 8, 4)),
        ((5, 7), np.float64, (7,)),
    ],
)
def test_pictures_are_channels_height_width(shape, dtype, event):
    assert load(np.ones(shape, dtype), **ALL).shapes["x"] == event


def test_channels_move_with_their_values_and_their_mask():
    x = np.random.default_rng(0).random((4, 5, 6, 3))
    x[0, 1, 2, 0] = np.nan
    data = load({"x": x, "mask": np.ones_like(x)}, **ALL)
    assert not data.train.fields["mask"][0, 0, 1, 2]
    assert data.train.fields["mask"].sum() == x.size - 1
    assert data.train.fields["x"][1, 2, 3, 4] == x[1, 3, 4, 2]


def test_sequences_keep_their_shape():
    data = load({"x": np.ones((4, 7, 3), bool), "lengths": np.array([7, 2, 1, 3])}, **ALL)
    assert data.shapes == {"x": (7, 3), "lengths": ()}


# --- missing values --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    missing=hnp.arrays(bool, (4, 3)),
    hidden=hnp.arrays(bool, (4, 3)),
)
def test_nan_and_a_given_mask_both_hide(missing, hidden):
    missing[0, 0] = False
    x = np.where(missing, np.nan, 2.5)
    data = load({"x": x, "mask": ~hidden}, **ALL).train.fields
    assert data["mask"].dtype == torch.bool
    assert (data["mask"].numpy() == ~(missing | hidden)).all()
    assert (data["x"].numpy() == np.where(missing | hidden, 0, 2.5)).all()


def test_a_mask_in_one_split_is_a_mask_in_all():
    x = torch.ones(10, 2)
    data = load({"x_train": x, "x_test": torch.tensor([[1.0, math.nan]])})
    assert data.train.fields["mask"].all()
    assert data.splits["test"].fields["mask"].tolist() == [[True, False]]
    assert "mask" not in load(x).shapes


def test_masked_arrays_keep_their_mask():
    data = load(np.ma.MaskedArray([[1, 2], [3, 4]], mask=[[False, True], [False, False]]), **ALL)
    assert data.train.fields["mask"].tolist() == [[True, False], [True, True]]


# --- errors ----------------------------------------------------------------------------------------

RAGGED = [[1.0, 2.0], [3.0]]
X = np.ones((4, 2))


@pytest.mark.parametrize(
    ("what", "fix"),
    [
        (np.zeros((0, 3)), "is empty, of shape (0, 3); give one row or more"),
        (np.zeros((3, 0)), "is empty, of shape (3, 0); give one row or more"),
        (np.array(1.0), "give one row per datum"),
        (np.ones(4), "give x[:, None] for 4 data of one number, x[None] for a single datum"),
        (
            np.array([[1.0, np.inf]]),
            "1 infinite values; remove them, or set them to NaN to mark them missing",
        ),
        (np.full((2, 2), np.nan), "give data with at least one observed value"),
        (np.array([["a", "b"]]), "is not numeric (<U1); encode it as numbers first"),
        (np.array([[None, 1]]), "encode it as numbers first"),
        (np.array([[1j]]), "encode it as numbers first"),
        (torch.tensor([[1j]]), "give a dense tensor of real numbers"),
        (torch.eye(2).to_sparse(), "give a dense tensor of real numbers"),
        (np.array([[2**63]], dtype=np.uint64), "give smaller numbers or floats"),
        ({"x": X, "y": np.ones(3)}, "different lengths {'x': 4, 'y': 3}; give every field one row per datum"),
        ({"x": RAGGED}, "give rows of equal length"),
        ({"x": X, "y": np.array([0, 1, np.nan, 1])}, "only x may have missing values, remove those rows"),
        ({"x": X, "mask": np.ones(4)}, "give one truth value for every entry of x"),
        ({"x": X, "mask": np.full((4, 2), 0.5)}, "give True for observed entries"),
        ({"features": X}, "call the observed array x, its labels y"),
        ({"x": X, "images": X}, "keep one of them"),
        ({"x_train": X, "y_train": np.ones(4), "x_test": X}, "give every split the same fields"),
        ({"x_train": X, "x_test": np.ones((4, 3))}, "make them equal"),
        ({"x_train": X, "z": X}, "name all of them like x_train, or none"),
        ({"test": X}, "call its data x, or train"),
        ({}, "call its data x, or train"),
        ([[1, 2]], "data of type list cannot be loaded; give a built-in name, a path, a Tensor"),
        (None, "data of type NoneType cannot be loaded"),
    ],
)
def test_what_cannot_be_used_says_so_in_one_line(what, fix):
    options = {} if isinstance(what, dict) and "test" in str(list(what)) else ALL
    with pytest.raises(DataError) as caught:
        load(what, **options)
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PPVAEError)

"""Split and Dataset: what a batch is, what is random in it, and what the hash sees."""

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae.data import Dataset, Split, load
from ppvae.errors import DataError, UsageError


def grey(n=40, seed=0, **options) -> Dataset:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=g)
    return load({"x": x, "y": torch.arange(n) % 3}, **options)


# --- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "levels"), [(1, 2), (16, 17), (255, 256)])
def test_batch_is_exactly_stored_over_steps(steps, levels):
    x = torch.arange(steps + 1, dtype=torch.uint8)[:, None]
    split = Split({"x": x, "y": x[:, 0]}, {"x": steps})
    batch = split.batch(torch.arange(steps + 1))
    assert batch["x"].dtype == torch.float32
    assert torch.equal(batch["x"].double(), (x.double() / steps).float().double())  # correctly rounded
    assert batch["y"].dtype == torch.int64
    assert batch["y"].tolist() == x[:, 0].tolist()
    assert Dataset(name="", train=split).levels == levels


def test_batch_gathers_by_index_and_keeps_floats_and_bool():
    x = torch.randn(5, 3, dtype=torch.float64)
    mask = x > 0
    index = torch.tensor([4, 0, 0])
    batch = Split({"x": x, "mask": mask}).batch(index)
    assert torch.equal(batch["x"], x[index])
    assert torch.equal(batch["mask"], mask[index])
    assert batch["mask"].dtype == torch.bool


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


WAITS = {"_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "unique", "equal"}


@pytest.mark.parametrize("binarization", ["none", "static", "dynamic", "threshold"])
def test_batch_never_waits_for_the_device(binarization):
    split = grey(binarization=binarization).train
    index = torch.arange(7)
    with Calls() as calls:
        split.batch(index)
    assert calls.names
    assert not WAITS & set(calls.names)
    with Calls() as calls:  # the counter counts
        split.fields["x"].max().item()
    assert WAITS & set(calls.names)


def test_batch_runs_on_another_device_without_data():
    """On the meta device any look at a value raises."""
    split = grey(binarization="dynamic").train.to("meta")
    assert split.batch(torch.arange(3, device="meta"))["x"].shape == (3, 1, 4, 4)


def test_an_index_out_of_range_is_an_error():
    with pytest.raises(IndexError):
        grey().train.batch(torch.tensor([1000]))


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 50), seed=st.integers(0, 999))
def test_subset_and_shuffled_move_whole_data(n, seed):
    split = Split({"x": torch.arange(n)[:, None], "y": torch.arange(n)})
    moved = split.shuffled(seed)
    assert sorted(moved.fields["y"].tolist()) == list(range(n))
    assert torch.equal(moved.fields["x"][:, 0], moved.fields["y"])
    assert torch.equal(split.subset(moved.fields["y"]).fields["x"], moved.fields["x"])


# --- binarization ----------------------------------------------------------------------------------


def test_dynamic_draws_afresh_with_the_right_mean():
    """Each of 64 pixels 2,000 times, default generator seeded 7: within 5 standard errors of x / 255."""
    x = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8) * 4
    data = load(x, valid=0, test=0, binarization="dynamic")
    torch.manual_seed(7)
    draws = data.train.batch(torch.zeros(2000, dtype=torch.int64))["x"]
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    p = x / 255
    error = (draws.mean(0) - p).abs() / (p * (1 - p) / 2000).sqrt().clamp(min=1e-9)
    assert error.max() < 5
    assert draws.var(0).max() > 0.2


def test_dynamic_redraws_and_static_does_not():
    index = torch.arange(20)
    dynamic, static = grey(binarization="dynamic"), grey(binarization="static")
    assert not torch.equal(dynamic.train.batch(index)["x"], dynamic.train.batch(index)["x"])
    assert torch.equal(static.train.batch(index)["x"], static.train.batch(index)["x"])
    assert set(static.train.fields["x"].unique().tolist()) == {0, 1}


def test_dynamic_follows_the_generator():
    split, index = grey(binarization="dynamic").train, torch.arange(20)
    one, two, three = (split.batch(index, torch.Generator().manual_seed(s))["x"] for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_fixed_is_one_draw_and_the_static_set_is_that_draw():
    dynamic, static = grey(binarization="dynamic", seed=4), grey(binarization="static", seed=4)
    for name in ("train", "valid", "test"):
        fixed = dynamic.fixed(name)
        assert not fixed.dynamic
        assert torch.equal(fixed.fields["x"], dynamic.fixed(name).fields["x"])
        assert torch.equal(fixed.fields["x"], static.splits[name].fields["x"])
        assert static.fixed(name) is static.splits[name]
    assert not torch.equal(dynamic.train.fixed(1).fields["x"], dynamic.train.fixed(2).fields["x"])


def test_splits_do_not_share_their_uniforms():
    """The same half-grey pictures in train and test become different bits (equal with chance 2^-96)."""
    x = np.full((6, 1, 4, 4), 127, np.uint8)
    data = load({"x_train": x, "x_test": x}, binarization="static")
    assert not torch.equal(data.splits["train"].fields["x"], data.splits["test"].fields["x"])


def test_threshold_is_above_127():
    x = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).reshape(4, 1, 1, 1)
    data = load(x, valid=0, test=0, binarization="threshold")
    assert data.train.fields["x"].flatten().tolist() == [0, 0, 1, 1]
    half = load(torch.tensor([[0.5], [0.51]]), valid=0, test=0, binarization="threshold")
    assert half.train.fields["x"].flatten().tolist() == [0, 1]


def test_dynamic_goes_back_to_grey_and_floats_can_be_binarized():
    data = grey()
    assert load(load(data, binarization="dynamic"), binarization="none").hash == data.hash
    p = load(torch.rand(200, 3, dtype=torch.float64), binarization="dynamic")
    assert p.train.batch(torch.arange(50))["x"].unique().tolist() == [0.0, 1.0]
    assert p.fixed("test").batch(torch.arange(5))["x"].dtype == torch.float32


def test_masked_entries_stay_zero_under_binarization():
    x = torch.full((50, 4), 0.9)
    x[:, 0] = math.nan
    data = load(x, binarization="dynamic")
    assert data.train.batch(torch.arange(40))["x"][:, 0].sum() == 0
    assert not data.train.fields["mask"][:, 0].any()


@pytest.mark.parametrize(
    ("make", "error", "fix"),
    [
        (lambda: grey(binarization="dinamic"), UsageError, "did you mean 'dynamic'"),
        (lambda: load("digits", binarization="dynamic"), DataError, "load the grey set (mnist for digits)"),
        (lambda: load("bars", binarization="static"), DataError, "leave binarization out"),
        (lambda: load("two_moons", binarization="static"), DataError, "scale it to [0, 1] first"),
        (lambda: load(torch.arange(300)[:, None], binarization="static"), DataError, "give uint8 pictures"),
    ],
)
def test_what_cannot_be_binarized_says_why(make, error, fix):
    with pytest.raises(error) as caught:
        make()
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)


# --- hash ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_flipped_bit_changes_the_hash(data):
    one = grey()
    split = data.draw(st.sampled_from(["train", "valid", "test"]))
    field = data.draw(st.sampled_from(["x", "y"]))
    other = copy.deepcopy(one)
    flat = other.splits[split].fields[field].view(-1)
    flat[data.draw(st.integers(0, len(flat) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert replace(other).hash != one.hash
    assert grey().hash == one.hash


def test_the_hash_sees_types_shapes_names_splits_and_binarization():
    x = torch.zeros(8, 4, dtype=torch.uint8)
    base = Dataset(name="a", train=Split({"x": x}, {"x": 255}))
    variants = [
        base,
        Dataset(name="a", train=Split({"x": x.reshape(8, 2, 2)}, {"x": 255})),
        Dataset(name="a", train=Split({"x": x.to(torch.int8)}, {"x": 255})),
        Dataset(name="a", train=Split({"z": x}, {"z": 255})),
        Dataset(name="a", train=Split({"x": x}, {"x": 16})),
        Dataset(name="a", train=Split({"x": x[:4]}, {"x": 255}), valid=Split({"x": x[4:]}, {"x": 255})),
        Dataset(name="a", train=Split({"x": x[:4]}, {"x": 255}), test=Split({"x": x[4:]}, {"x": 255})),
        load(base, binarization="dynamic"),
        load(base, binarization="dynamic", seed=1),
        load(base, binarization="static"),
        load(base, binarization="static", seed=1),  # the same bits (all zero), another seed
        load(base, binarization="threshold"),
    ]
    assert len({v.hash for v in variants}) == len(variants)
    assert Dataset(name="b", train=Split({"x": x.clone()}, {"x": 255})).hash == base.hash


def test_the_hash_survives_a_pickle_and_the_order_of_fields():
    data = grey()
    assert pickle.loads(pickle.dumps(data)).hash == data.hash
    turned = {name: Split(dict(reversed(s.fields.items())), s.steps) for name, s in data.splits.items()}
    assert replace(data, **turned).hash == data.hash


# --- properties and errors -------------------------------------------------------------------------


def test_properties():
    data = grey()
    assert data.shapes == {"x": (1, 4, 4), "y": ()}
    assert (data.num_data, len(data.train), data.levels) == (32, 32, 256)
    assert data.num_classes() == 3
    assert load(data, binarization="dynamic").levels == 2
    assert load("two_moons").levels is None
    assert load("bars").levels == 2
    assert repr(data) == (
        "Dataset('dict': train 32, valid 4, test 4; {'x': (1, 4, 4), 'y': ()}; binarization 'none')"
    )


@pytest.mark.parametrize(
    ("make", "error", "fix"),
    [
        (lambda: grey().num_classes("z"), UsageError, "it has x, y"),
        (lambda: grey().num_classes("x"), DataError, "give whole numbers"),
        (lambda: load("ppca_toy").num_classes(), UsageError, "it has x"),
        (lambda: grey(valid=0).fixed("valid"), UsageError, "it has train, test"),
        (lambda: Split({"x": torch.ones(2), "y": torch.ones(3)}), DataError, "one row per datum"),
        (lambda: Split({}), DataError, "at least x"),
        (
            lambda: Dataset(
                name="", train=Split({"x": torch.ones(2, 1)}), test=Split({"x": torch.ones(2, 3)})
            ),
            DataError,
            "make them equal",
        ),
    ],
)
def test_errors_say_what_to_do(make, error, fix):
    with pytest.raises(error, match=fix):
        make()

"""Data of several files: every row once an epoch, in an order that any number of processes repeats, and few
of the files in memory."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ppvae import fit
from ppvae.data import Split, load, shards
from ppvae.data.shards import WINDOW, Shards
from ppvae.engine.ranks import Ranks
from ppvae.errors import DataError, UsageError
from tests.toys import MLP_VAE

SIZES = (5, 9, 4, 7, 6)


def folder_of(tmp_path: Path, sizes=SIZES, seed: int = 0) -> Path:
    """Bits of six, and the number of the row in y."""
    folder, start = tmp_path / f"shards{seed}", 0
    folder.mkdir()
    generator = np.random.default_rng(seed)
    for i, size in enumerate(sizes):
        x = generator.integers(0, 2, (size, 6)).astype(np.float32)
        np.savez_compressed(folder / f"part-{i}.npz", x=x, y=np.arange(start, start + size))
        start += size
    np.savez(folder / "valid.npz", x=generator.integers(0, 2, (5, 6)).astype(np.float32), y=np.arange(5))
    return folder


def streamed(folder: Path) -> Shards:
    train = load(folder).train
    assert isinstance(train, Shards)
    return train


def whole(folder: Path) -> dict[str, np.ndarray]:
    """All rows, by their numbers."""
    files = [np.load(path) for path in sorted(folder.glob("part-*.npz"))]
    return {name: np.concatenate([file[name] for file in files]) for name in ("x", "y")}


def test_a_batch_has_the_rows_that_are_asked_for_in_their_order(tmp_path):
    folder = folder_of(tmp_path)
    train, wanted = streamed(folder), whole(folder)
    index = torch.randperm(sum(SIZES))[:17]
    batch = train.batch(index)
    assert len(train) == sum(SIZES)
    assert torch.equal(batch["y"], index)
    assert torch.equal(batch["x"], torch.from_numpy(wanted["x"])[index])
    subset = train.subset(index)
    assert type(subset) is Split
    assert torch.equal(subset.batch(torch.arange(17))["x"], batch["x"])


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_has_every_row_once_and_another_epoch_or_seed_another_order(epoch, tmp_path):
    train = streamed(folder_of(tmp_path))
    n = len(train)
    order = train.order(seed=2, epoch=epoch)[0:n]
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() != list(range(n))
    for other in (train.order(2, epoch + 1)[0:n], train.order(3, epoch)[0:n]):
        assert not torch.equal(order, other)


def test_any_part_of_an_order_is_that_of_the_whole(tmp_path):
    """From any step on, on any number of processes, without what comes before."""
    train = streamed(folder_of(tmp_path))
    whole = train.order(5, 1)[0 : len(train)]
    for start in range(0, len(train), 4):
        batch = train.order(5, 1)[start : start + 8]
        assert torch.equal(batch, whole[start : start + 8])
        for size in (2, 3):
            shares = [batch[Ranks(rank, size).share(len(batch))] for rank in range(size)]
            assert torch.equal(torch.cat(shares), batch)


def test_an_epoch_opens_each_file_once_and_keeps_few(tmp_path, monkeypatch):
    train = streamed(folder_of(tmp_path))
    opened, most, read = [], 0, shards.read_file
    monkeypatch.setattr(shards, "read_file", lambda path: (opened.append(path.name), read(path))[1])
    train.kept.clear()
    order = train.order(0, 0)
    for start in range(0, len(train), 3):
        train.batch(order[start : start + 3])
        most = max(most, len(train.kept))
    assert sorted(opened) == [f"part-{i}.npz" for i in range(len(SIZES))]
    assert most == WINDOW + 1


def test_rows_of_a_window_meet(tmp_path):
    """Not shard by shard: the first rows of an epoch are of both of its first shards."""
    train = streamed(folder_of(tmp_path, (50, 50, 50, 50)))
    first = train.order(0, 0)[0:20] // 50
    assert len(first.unique()) == WINDOW


def test_the_hash_is_of_every_file(tmp_path):
    folder = folder_of(tmp_path)
    before = load(folder).hash
    assert load(folder).hash == before
    last = dict(np.load(folder / "part-4.npz"))
    last["x"][0, 0] = 1 - last["x"][0, 0]
    np.savez_compressed(folder / "part-4.npz", **last)  # type: ignore[arg-type]
    assert load(folder).hash != before


def test_training_resumes_in_the_middle_of_an_epoch_bit_for_bit(tmp_path):
    folder = folder_of(tmp_path)
    options = {"progress": False, "batch": 4, "save": True, "engine": "eager", "lr": 0.01}
    straight = fit(MLP_VAE, folder, steps=11, out=tmp_path / "a", **options)
    begun = fit(MLP_VAE, folder, steps=3, out=tmp_path / "b", **options)
    resumed = fit(MLP_VAE, folder, resume=begun.run, steps=11)
    for name, value in straight.built.state_dict().items():
        assert torch.equal(resumed.built.state_dict()[name], value), name
    assert straight.evaluate(k=5, n=5, split="valid")["elbo"] < 0


def test_dynamic_bits_are_drawn_anew(tmp_path):
    folder = tmp_path / "grey"
    folder.mkdir()
    for i in range(2):
        np.savez(folder / f"{i}.npz", x=np.full((4, 6), 128, dtype=np.uint8))
    train = load(folder, binarization="dynamic").train
    a, b = (train.batch(torch.arange(8))["x"] for _ in range(2))
    assert set(a.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(a, b)
    with pytest.raises(DataError, match="use 'static' or 'dynamic'"):
        load(folder, binarization="threshold")


def test_bits_that_are_drawn_once_are_those_of_every_time(tmp_path):
    """However the files were opened meanwhile; each file has bits of its own."""
    folder = tmp_path / "grey"
    folder.mkdir()
    for i in range(5):
        np.savez(folder / f"{i}.npz", x=np.full((4, 6), 128, dtype=np.uint8))
    static, dynamic = load(folder, binarization="static"), load(folder, binarization="dynamic")
    first = static.train.batch(torch.arange(20))["x"]
    assert set(first.unique().tolist()) == {0.0, 1.0}
    static.train.batch(torch.tensor([19, 0]))
    assert torch.equal(static.train.batch(torch.arange(20))["x"], first)
    assert torch.equal(dynamic.fixed("train").batch(torch.arange(20))["x"], first)
    assert len({tuple(rows.flatten().tolist()) for rows in first.split(4)}) == 5
    assert static.hash != dynamic.hash


def test_what_cannot_be_used_is_named(tmp_path):
    folder = folder_of(tmp_path)
    with pytest.raises(UsageError, match=r"put a valid.npz there"):
        load(folder, valid=0.1)
    with pytest.raises(DataError, match="give y_classes=N among the sizes"):
        load(folder).num_classes("y")
    train = streamed(folder)
    np.savez(folder / "part-3.npz", x=np.zeros((7, 5), dtype=np.float32), y=np.arange(7))
    with pytest.raises(DataError, match=r"part-3.npz holds 7 rows of x \(5,\).* 7 of x \(6,\)"):
        train.batch(torch.tensor([18]))
    with pytest.raises(DataError, match=r"part-2.npz holds 4 rows .* and 3 of"):
        dataclasses.replace(train, sizes=(5, 9, 3, 7, 6)).batch(torch.tensor([14]))
    (folder / "part-9.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"part-9\.npz is no shard"):
        load(folder)
    np.savez(folder / "part-0.npz", x=np.zeros((5, 6), dtype=np.float32), y=np.array(list("abcde")))
    with pytest.raises(DataError, match="is text, whose classes one shard does not tell"):
        load(folder)

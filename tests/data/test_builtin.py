"""The sets that go by name: embedded, on disk, downloaded, drawn."""

import gzip
import hashlib
import io
import os
import pickle
import runpy
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ppvae.data import cifar10, embedded, load, mnist, names, synthetic
from ppvae.data.download import download
from ppvae.data.files import cache
from ppvae.errors import DataError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_digits.py"


def refused(what, *fixes, **options):
    with pytest.raises(DataError) as caught:
        load(what, **options)
    for fix in fixes:
        assert fix in str(caught.value)
    assert "\n" not in str(caught.value)


def sizes(data):
    return [len(split) for split in data.splits.values()]


# --- the embedded set ------------------------------------------------------------------------------


def test_digits_need_nothing():
    data = load("digits")
    assert data is not load("digits")
    assert sizes(data) == [50_000, 10_000, 10_000]
    assert data.shapes == {"x": (1, 28, 28), "y": ()}
    assert (data.levels, data.binarization, data.binarization_seed) == (2, "static", 1998)
    counts = sum(torch.bincount(split.fields["y"].long()) for split in data.splits.values())
    assert torch.as_tensor(counts).tolist() == [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
    first = data.splits["test"].fields["y"][:1000].long()  # shuffled: the first n are a sample
    assert torch.bincount(first).min() > 70


def test_digits_are_what_the_script_makes(data_root):
    made = runpy.run_path(str(SCRIPT))
    content = made["write"](made["make"](str(data_root)))
    assert hashlib.sha256(content).hexdigest() == embedded.SHA256
    assert embedded.SHA256 in (embedded.PATH.with_suffix(".md")).read_text()


def test_digits_agree_with_the_grey_pictures(data_root):
    """Black stays black, white stays white, and the means agree: seed 1998, 54.88 million bits, 5 sigma."""
    grey, bits = mnist.read(data_root / "MNIST" / "raw", "MNIST")["test"], load("digits").splits["test"]
    mean = grey["x"].astype(np.int64).sum() / 255 / grey["x"].size
    assert abs(bits.fields["x"].double().mean().item() - mean) < 5 * 0.5 / grey["x"].size ** 0.5
    always = grey["x"].min(0)[None, None] > 0
    never = grey["x"].max(0)[None, None] == 0
    assert not bits.fields["x"].numpy()[:, never[0]].any()
    assert not always.any()


def test_a_damaged_embedded_file_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "digits.npz"
    monkeypatch.setattr(embedded, "PATH", path)
    refused("digits", "is missing; install ppvae again")
    content = bytearray(Path(embedded.__file__).with_name("digits.npz").read_bytes())
    content[1000] ^= 4
    path.write_bytes(content)
    refused("digits", str(path), embedded.SHA256)


# --- MNIST and Fashion-MNIST -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_and_fashion(data_root, name):
    data = load(name)
    assert sizes(data) == [50_000, 10_000, 10_000]
    assert (data.levels, data.binarization, data.num_classes()) == (256, "none", 10)
    whole = load(name, valid=0)
    assert sizes(whole) == [60_000, 10_000]
    assert torch.equal(
        torch.bincount(whole.splits["test"].fields["y"].long()).max(),
        torch.tensor(1000 if name == "fashion_mnist" else 1135),
    )


def test_the_hashes_are_those_of_torchvision():
    datasets = pytest.importorskip("torchvision").datasets
    assert dict(datasets.MNIST.resources) == mnist.MD5["MNIST"]
    assert dict(datasets.FashionMNIST.resources) == mnist.MD5["FashionMNIST"]
    assert datasets.CIFAR10.tgz_md5 == cifar10.ARCHIVE_MD5
    assert datasets.CIFAR10.filename == cifar10.ARCHIVE


def test_pixels_are_those_of_the_files(data_root):
    """Against a reader of its own, for one picture."""
    raw = gzip.decompress((data_root / "MNIST/raw/t10k-images-idx3-ubyte.gz").read_bytes())
    picture = np.frombuffer(raw[16 + 784 * 7 : 16 + 784 * 8], np.uint8).reshape(1, 28, 28)
    data = load("mnist", valid=0)
    batch = data.splits["test"].batch(torch.tensor([7]))
    assert torch.equal(batch["x"][0], torch.from_numpy(picture / np.float32(255)))
    assert batch["y"].tolist() == [9]


FILES = list(mnist.MD5["MNIST"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"  <!DOCTYPE html>", "is an HTML page, not data"),
        (b"no gzip at all", "is not a .gz file"),
        (gzip.compress(b"\x00\x00\x0d\x03other magic", mtime=0), "is truncated or changed"),
        (gzip.compress(b"x" * 99, mtime=0)[:-9], "is truncated or changed"),
    ],
)
def test_a_damaged_file_is_named_with_its_hash_and_kept(nothing, tmp_path, content, says):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(content)
    refused(
        "mnist", str(folder / FILES[0]), says, mnist.MD5["MNIST"][FILES[0]], "put the original", root=tmp_path
    )
    assert all((folder / name).read_bytes() == content for name in FILES)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no gzip", "is no whole gzip file"),
        (gzip.compress(b"abc", mtime=0)[:-3], "is no whole gzip file"),
        (gzip.compress(b"", mtime=0), "starts with nothing, expected 000008"),
        (gzip.compress(b"\x00\x00\x0d\x01" + bytes(8), mtime=0), "starts with 00000d01, expected 000008"),
        (gzip.compress(b"\x00\x00\x08\x02\x00", mtime=0), "expected 000008"),
        (
            gzip.compress(b"\x00\x00\x08\x01" + struct.pack(">I", 5) + b"1234", mtime=0),
            "holds 4 bytes, its header says (5,)",
        ),
    ],
)
def test_idx_that_is_none(content, says):
    with pytest.raises(DataError) as caught:
        mnist.idx(Path("some.gz"), content)
    assert says in str(caught.value)
    assert "put the original in its place" in str(caught.value)


def test_idx_round_trip():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = gzip.compress(b"\x00\x00\x08\x03" + struct.pack(">3I", 2, 3, 4) + array.tobytes(), mtime=0)
    assert np.array_equal(mnist.idx(Path("some.gz"), content), array)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "digits8x8"])
def test_what_is_nowhere_is_one_line_that_says_where_it_was_looked_for(nothing, name, tmp_path):
    refused(
        name,
        str(tmp_path),
        str(cache()),
        "$PPVAE_DATA",
        "use --data digits, which is embedded",
        root=tmp_path,
    )
    if name != "digits8x8":
        refused(name, "cannot be downloaded (no network in tests)")


def test_the_order_of_the_roots(monkeypatch, tmp_path):
    """`root` before $PPVAE_DATA before the cache; a folder that lacks a file is passed over."""
    for k, base in enumerate((tmp_path / "root", tmp_path / "env", cache())):
        folder = base / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for name in FILES[: 3 if k == 0 else 4]:
            (folder / name).write_bytes(b"")
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path / "env"))
    refused("mnist", str(tmp_path / "env" / "MNIST"), root=tmp_path / "root")
    (tmp_path / "root" / "MNIST" / "raw" / FILES[3]).write_bytes(b"")
    refused("mnist", str(tmp_path / "root" / "MNIST"), root=tmp_path / "root")
    monkeypatch.delenv("PPVAE_DATA")
    refused("mnist", str(cache()))


def tree(root):
    return sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))


def test_no_root_is_written_to(monkeypatch, data_root, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data_root / "MNIST", copy / "MNIST")
    shutil.copytree(data_root / "Digits8x8", copy / "Digits8x8")
    for path in [*copy.rglob("*"), copy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setenv("PPVAE_DATA", str(copy))
    before = tree(copy)
    load("mnist")
    load("digits8x8")
    refused("fashion_mnist", "put FashionMNIST/raw/")
    refused("cifar10")
    assert tree(copy) == before
    assert not cache().exists()


# --- download --------------------------------------------------------------------------------------


def fake_torchvision(monkeypatch, make):
    datasets = pytest.importorskip("torchvision").datasets
    monkeypatch.setattr(datasets, "MNIST", make)
    monkeypatch.setattr(mnist, "download", download)


def test_a_download_goes_to_the_cache_alone(monkeypatch, data_root, tmp_path, capsys):
    def fetch(folder, download):
        assert cache() in Path(folder).parents
        print("Downloading ...")
        shutil.copytree(data_root / "MNIST" / "raw", Path(folder) / "MNIST" / "raw")

    fake_torchvision(monkeypatch, fetch)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PPVAE_DATA", str(empty))
    assert sizes(load("mnist", root=empty)) == [50_000, 10_000, 10_000]
    assert not list(empty.iterdir())
    assert sorted(p.name for p in cache().rglob("*") if p.is_file()) == sorted(FILES)
    assert [p.name for p in cache().iterdir()] == ["MNIST"]  # no temporary folder is left
    assert capsys.readouterr().out == ""


def test_a_failed_download_is_one_line_and_leaves_nothing(nothing, monkeypatch):
    def fetch(folder, download):
        (Path(folder) / "half").write_bytes(b"x")
        raise RuntimeError("Error downloading:\n  no route to host")

    fake_torchvision(monkeypatch, fetch)
    refused("mnist", "cannot be downloaded (RuntimeError: Error downloading: no route to host)", "embedded")
    assert not list(cache().iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs a path that no user can make a folder of")
def test_a_cache_that_cannot_be_written_is_one_line(nothing, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr(mnist, "download", download)
    refused("mnist", "cannot be downloaded (NotADirectoryError", "embedded")


# --- CIFAR-10 and Digits8x8 ------------------------------------------------------------------------


def test_cifar10(data_root):
    data = load("cifar10", valid=0)
    assert sizes(data) == [50_000, 10_000]
    assert data.shapes["x"] == (3, 32, 32)
    x = data.train.fields["x"].double()
    mean, std = x.mean((0, 2, 3)) / 255, x.std((0, 2, 3), correction=0) / 255
    torch.testing.assert_close(
        mean, torch.tensor([0.49139968, 0.48215841, 0.44653091]).double(), atol=1e-7, rtol=0
    )
    torch.testing.assert_close(
        std, torch.tensor([0.24703223, 0.24348513, 0.26158784]).double(), atol=1e-7, rtol=0
    )
    assert [data.classes[k] for k in data.train.fields["y"][:3].tolist()] == ["frog", "truck", "truck"]
    assert torch.bincount(data.train.fields["y"].long()).tolist() == [5000] * 10
    # The pictures belong to the labels: mean blue minus red is the sky's for planes, the earth's for deer.
    blue = x[:, 2].mean((1, 2)) - x[:, 0].mean((1, 2))
    plane, deer = (blue[data.train.fields["y"] == data.classes.index(c)].mean() for c in ("airplane", "deer"))
    assert plane > 5
    assert deer < -10


def archive(batch) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for k, stem in enumerate((*cifar10.BATCHES, "test_batch")):
            pickled = pickle.dumps(batch(k), protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{stem}")
            member.size = len(pickled)
            tar.addfile(member, io.BytesIO(pickled))
    return content.getvalue()


def test_cifar10_from_its_archive(nothing, monkeypatch, tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (6, 2, 3072), dtype=np.uint8)
    content = archive(lambda k: {"data": data[k], "labels": [k, 9 - k], "filenames": ["a", "b"]})
    (tmp_path / cifar10.ARCHIVE).write_bytes(content)
    refused("cifar10", "is truncated or changed", cifar10.ARCHIVE_MD5, root=tmp_path)
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(content).hexdigest())
    loaded = load("cifar10", root=tmp_path, valid=0)
    assert torch.equal(loaded.train.fields["x"], torch.from_numpy(data[:5].reshape(10, 3, 32, 32)))
    assert loaded.splits["test"].fields["y"].tolist() == [5, 4]


class Bomb:
    def __reduce__(self):
        return (os.system, ("false",))


def test_the_archive_yields_arrays_only(nothing, monkeypatch, tmp_path):
    content = archive(lambda k: Bomb())
    (tmp_path / cifar10.ARCHIVE).write_bytes(content)
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(content).hexdigest())
    refused("cifar10", "asks for posix.system", "put the original archive", root=tmp_path)


def test_a_damaged_sheet_is_named(nothing, tmp_path):
    for name in cifar10.SHEETS_SHA256:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"RIFF....")
    refused("cifar10", "data_batch_1.webp is truncated or changed", root=tmp_path)


def test_digits8x8(data_root, tmp_path):
    data = load("digits8x8", valid=0, test=0)
    assert (data.num_data, data.shapes["x"], data.levels, data.num_classes()) == (1797, (1, 8, 8), 17, 10)
    assert sizes(load("digits8x8")) == [1437, 180, 180]
    x = data.train.batch(torch.arange(1797))["x"]
    assert x.max() == 1
    assert torch.equal((x * 16).round() / 16, x)
    assert x.sum().item() * 16 == 561718
    (tmp_path / "Digits8x8").mkdir()
    (tmp_path / "Digits8x8" / "digits.csv.gz").write_bytes(b"<html>")
    refused("digits8x8", "digits.csv.gz is an HTML page", root=tmp_path)


# --- synthetic -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in names if hasattr(synthetic, n)])
def test_synthetic_sets_repeat_by_seed(name):
    assert load(name).hash == load(name).hash
    assert load(name).hash != load(name, seed=1).hash
    assert sizes(load(name)) == [1000, 200, 200]
    assert load(name).truth
    assert sizes(getattr(synthetic, name)(n=7, seed=2)) == [7, 1, 1]


def test_ppca_has_the_moments_of_its_truth():
    """n = 200,000, seed 0: mean and covariance within 5 standard errors (sqrt(2 / n) of scale)."""
    data = synthetic.ppca_toy(n=200_000)
    assert data.truth is not None
    weight, loc, variance = (data.truth[key] for key in ("weight", "loc", "variance"))
    x = data.train.batch(torch.arange(200_000))["x"]
    assert x.dtype == weight.dtype == torch.float64
    cov = weight @ weight.T + variance * torch.eye(10, dtype=torch.float64)
    scale = cov.diagonal().sqrt()
    assert ((x.mean(0) - loc).abs() / scale).max() < 5 / 200_000**0.5
    error = (x.T.cov() - cov) / (scale[:, None] * scale)
    assert error.abs().max() < 5 * 2**0.5 / 200_000**0.5


def test_the_mixture_has_the_moments_of_its_truth():
    """n = 40,000, seed 0, about 5,000 a component: within 5 standard errors."""
    data = synthetic.gaussian_mixture_2d(n=40_000)
    assert data.truth is not None
    batch = data.train.batch(torch.arange(40_000))
    for k in range(8):
        x = batch["x"][batch["y"] == k]
        assert abs(len(x) / 40_000 - 1 / 8) < 5 * (7 / 64 / 40_000) ** 0.5
        assert (x.mean(0) - data.truth["loc"][k]).abs().max() < 5 * 0.2 / len(x) ** 0.5
        assert (x.std(0) - 0.2).abs().max() < 5 * 0.2 / (2 * len(x)) ** 0.5


def test_the_noisy_or_network_has_the_moments_of_its_truth():
    """n = 40,000, seed 0: how often each symptom, and each two, are off, within 5 standard errors."""
    data = synthetic.noisy_or_toy(n=40_000)
    assert data.truth is not None
    prior, fail, off = (data.truth[key].double() for key in ("prior", "fail", "off"))
    silent = 1 - data.train.batch(torch.arange(40_000))["x"].double()
    for d in range(6):
        for e in range(6):
            both = fail[d] * (fail[e] if d != e else 1)
            p = off[d] * (off[e] if d != e else 1) * (1 - prior * (1 - both)).prod()
            assert abs((silent[:, d] * silent[:, e]).mean() - p) < 5 * (p * (1 - p) / 40_000) ** 0.5


def test_bars_are_unions_of_bars_and_moons_are_near_their_circles():
    x = load("bars").train.fields["x"][:, 0].bool()
    across, down = x.all(2), x.all(1)
    assert torch.equal(across[:, :, None] | down[:, None, :], x)
    data = load("two_moons").train.batch(torch.arange(1000))
    y = data["y"][:, None]
    centre = torch.cat([y, 0.5 * y], 1)
    radius = (data["x"] - centre).norm(dim=1)
    assert (radius - 1).abs().max() < 0.45  # 4.5 scales of the noise
    inner = (data["x"] - centre)[:, 1] * (1 - 2 * data["y"])
    assert inner.min() > -0.45

"""Files, folders, tables and torch datasets."""

import importlib
import zipfile
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, Subset, TensorDataset

from ppvae.data import load
from ppvae.errors import DataError, UsageError

ALL: Any = {"valid": 0, "test": 0}
X, Y = np.random.default_rng(0).random((6, 3)), np.arange(6)


def refused(what, *fixes, error: type[Exception] = DataError):
    with pytest.raises(error) as caught:
        load(what)
    for fix in fixes:
        assert fix in str(caught.value)
    assert "\n" not in str(caught.value)


# --- .npz and .npy ---------------------------------------------------------------------------------


def test_npz_is_the_dict_it_holds(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    data = load(str(tmp_path / "a.npz"))
    assert data.hash == load({"x_train": X, "y_train": Y, "x_test": X[:2], "y_test": Y[:2]}).hash
    assert (data.name, data.source) == ("a", str(tmp_path / "a.npz"))
    np.save(tmp_path / "b.npy", X)
    assert load(tmp_path / "b.npy").hash == load(X).hash


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_a_truncated_file_is_named_and_kept(tmp_path, keep, suffix):
    path = tmp_path / f"a.{suffix}"
    np.savez(path, x=X) if suffix == "npz" else np.save(path, X)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    refused(path, str(path), "make it")
    assert path.exists()


def test_a_flipped_bit_in_an_npz_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=X)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    refused(path, str(path), "is truncated or damaged (Bad CRC-32", "make it anew")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html></html>", "is an HTML page, not data"),
        (b"something else entirely", "is not a .npz file"),
        (b"\x80\x04cos\nsystem\n", "is not a .npz file"),
    ],
)
def test_what_is_no_npz(tmp_path, content, says):
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", says, "make it anew with numpy.save")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_objects_are_never_unpickled(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    objects = np.array([Bomb(), None], dtype=object)
    np.savez(path, x=objects) if suffix == "npz" else np.save(path, objects)
    refused(path, str(path), "never unpickled; save plain numeric arrays")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:  # a member that is a bare pickle
        archive.writestr("x.npy", b"\x80\x04cos\nsystem\n")
    refused(tmp_path / "c.npz", "numeric")


def test_paths_and_names_that_do_not_exist(tmp_path):
    refused(str(tmp_path / "no.npz"), "does not exist; give the path of")
    refused("no.npz", "does not exist; give the path of")
    (tmp_path / "a.pt").write_bytes(b"x")
    refused(tmp_path / "a.pt", "cannot be read; give an .npz or .npy file, or a folder of pictures")
    refused("mnits", "did you mean 'mnist'?", "There are: digits, mnist", error=UsageError)
    refused("qqqqq", "no data set 'qqqqq'. There are:", error=UsageError)


# --- folders of pictures ---------------------------------------------------------------------------


def picture(path, value: Any = 0, size=(4, 3), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_a_flat_folder_of_grey_pictures(tmp_path):
    for k in range(12):
        picture(tmp_path / f"{k:02}.{('png', 'webp', 'bmp')[k % 3]}", k * 20) if k % 3 != 1 else picture(
            tmp_path / f"{k:02}.png", k * 20
        )
    (tmp_path / "readme.txt").write_text("not a picture")
    picture(tmp_path / ".hidden.png")
    data = load(tmp_path, **ALL)
    assert data.shapes == {"x": (1, 3, 4)}
    assert data.train.fields["x"][:, 0, 0, 0].tolist() == [k * 20 for k in range(12)]
    assert data.levels == 256


def test_subfolders_are_classes_and_one_colour_makes_all_rgb(tmp_path):
    picture(tmp_path / "cat" / "a.png", 7)
    picture(tmp_path / "ant" / "b.png", (1, 2, 3), mode="RGB")
    picture(tmp_path / "ant" / "c.png", (4, 5, 6, 0), mode="RGBA")
    data = load(tmp_path, **ALL)
    assert data.classes == ("ant", "cat")
    assert data.train.fields["y"].tolist() == [0, 0, 1]
    assert data.train.fields["x"][:, :, 0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 7, 7]]


def test_folders_called_train_and_test_are_splits(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for k in range(n):
            picture(tmp_path / split / "ab"[k % 2] / f"{k}.png", k)
    data = load(tmp_path)
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 3, "test": 2}
    assert data.classes == ("a", "b")


def test_broken_folders(tmp_path):
    refused(tmp_path, "holds no pictures; put .png, .jpg")
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", size=(5, 3))
    refused(tmp_path, "b.png is 5 x 3, a.png is 4 x 3; resize all pictures to one size")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:45])
    refused(tmp_path, "b.png is no whole picture", "replace or remove it")
    (tmp_path / "b.png").write_text("<html>")
    refused(tmp_path, "b.png is no whole picture")
    (tmp_path / "b.png").unlink()
    picture(tmp_path / "cat" / "c.png")
    refused(tmp_path, "(a.png) beside subfolders of them (cat)", "move each picture")
    (tmp_path / "a.png").unlink()
    Image.new("I;16", (4, 3)).save(tmp_path / "cat" / "d.png")
    refused(tmp_path, "d.png has more than 8 bits a channel", "convert it to 8 bits")


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def closed(folder):
        raise PermissionError(13, "Permission denied")

    module = importlib.import_module("ppvae.data.load")  # the package has the function of that name
    monkeypatch.setattr(module, "read_folder", closed)
    refused(tmp_path, "cannot be read (Permission denied); make it a readable folder")


# --- tables ----------------------------------------------------------------------------------------


def test_a_table_is_its_columns():
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, np.nan, 1.5], "y": ["u", "v", "u"]})
    data = load(frame, **ALL)
    assert data.name == "table"
    assert data.train.fields["x"].dtype == torch.float64
    assert data.train.fields["x"].tolist() == [[1, 0.5], [2, 0], [3, 1.5]]
    assert data.train.fields["mask"].tolist() == [[True, True], [True, False], [True, True]]
    assert data.classes == ("u", "v")
    assert load(frame[["a"]].astype("float32"), **ALL).train.fields["x"].dtype == torch.float32
    nullable = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "y": pd.Categorical(["q", "p"])})
    data = load(nullable, **ALL)
    assert data.train.fields["mask"].tolist() == [[True], [False]]
    assert data.train.fields["y"].tolist() == [1, 0]


def test_tables_that_cannot_be_used():
    refused(
        pd.DataFrame({"a": [1], "b": ["x"], "c": [pd.Timestamp(0)]}), "not numbers: b, c; drop them or encode"
    )
    refused(pd.DataFrame({"a": []}, dtype=float), "is empty, of shape (0, 1); give a row and a column")
    refused(pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns of one name", "rename one")
    refused(pd.DataFrame({"a": [1, 2], "y": [0, np.nan]}), "missing labels; remove those rows")


# --- torch datasets --------------------------------------------------------------------------------


class Items(TorchDataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        return self.items[k]


def test_torch_datasets_become_tensors():
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    expected = load({"x": x, "y": y}, **ALL).hash
    pairs = [(a, int(b)) for a, b in zip(x, y, strict=True)]
    assert load(TensorDataset(x, y), **ALL).hash == expected
    assert load(Subset(TensorDataset(x, y), range(6)), **ALL).hash == expected
    assert load(Items(*pairs), **ALL).hash == expected
    assert load(Items(*({"x": a, "y": b} for a, b in pairs)), **ALL).hash == expected
    assert load(Items(*x), **ALL).hash == load(x, **ALL).hash
    pictures = Items(*((Image.new("L", (4, 3), k), k) for k in range(9)))
    assert load(pictures, **ALL).shapes == {"x": (1, 3, 4), "y": ()}
    assert load(Items((x[0], 0.5), (x[1], 1.5)), **ALL).train.fields["y"].dtype == torch.float32


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.ones(2)


@pytest.mark.parametrize(
    ("dataset", "fix"),
    [
        (Items(), "is empty; give at least one item"),
        (Stream(), "give one with __len__"),
        (Items((1, 2, 3)), "item 0 is a tuple of 3; give x, (x, y) or a dict"),
        (Items(torch.ones(2), torch.ones(3)), "x of item 1 has shape (3,)"),
        (Items(torch.ones(2), (torch.ones(2), 1)), "item 1 has the fields ['x', 'y'], item 0 ['x']"),
        (Items(("some text", 1)), "x of item 0 is a str; give tensors or numbers"),
    ],
)
def test_torch_datasets_that_cannot_be_used(dataset, fix):
    refused(dataset, fix)


def test_importing_loads_nothing_heavy():
    import subprocess
    import sys

    heavy = ("torchvision", "pandas", "PIL", "pyro")
    code = f"import sys, ppvae.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"

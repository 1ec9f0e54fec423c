"""A folder of pictures; its subfolders, if they hold pictures, are the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ppvae.data.arrays import Parts
from ppvae.data.dataset import SPLITS
from ppvae.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
GREY = ("1", "L")


def read_folder(folder: Path) -> Parts:
    """{split: {"x": uint8 (N, C, H, W), "y": class names}}, files in the order of their names.

    A subfolder `train` (beside `valid` and `test`, if there are any) makes splits, each of them a folder
    as above. C = 1 if every picture is grey, else 3; all are of one size. DataError names the file.
    """
    inner = {name: folder / name for name in SPLITS if (folder / name).is_dir()}
    folders = inner if "train" in inner else {"train": folder}
    paths = {split: _pictures(sub) for split, sub in folders.items()}
    loaded = {split: [_open(path) for path, _ in files] for split, files in paths.items()}
    grey = all(picture.mode in GREY for part in loaded.values() for picture in part)
    first, (width, height) = paths["train"][0][0].name, loaded["train"][0].size
    parts: Parts = {}
    for split, files in paths.items():
        for (path, _), picture in zip(files, loaded[split], strict=True):
            if picture.size != (width, height):
                raise DataError(
                    f"{path} is {picture.size[0]} x {picture.size[1]}, {first} is {width} x {height}; "
                    f"resize all pictures to one size"
                )
        x = np.stack([np.asarray(picture.convert("L" if grey else "RGB")) for picture in loaded[split]])
        parts[split] = {"x": x[:, None] if grey else x.transpose(0, 3, 1, 2)}
        labels = [label for _, label in files]
        if all(label is not None for label in labels):
            parts[split]["y"] = np.array(labels)
    return parts


def _pictures(folder: Path) -> list[tuple[Path, str | None]]:
    """Every picture with the name of its class, or None where there are no classes."""
    classes = [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and not sub.name.startswith(".")]
    found: list[tuple[Path, str | None]] = [(path, sub.name) for sub in classes for path in _files(sub)]
    flat: list[tuple[Path, str | None]] = [(path, None) for path in _files(folder)]
    if flat and found:
        raise DataError(
            f"{folder} has pictures ({flat[0][0].name}) beside subfolders of them ({found[0][1]}); "
            f"move each picture into the subfolder of its class, or all into one folder"
        )
    if not flat and not found:
        raise DataError(f"{folder} holds no pictures; put {', '.join(SUFFIXES)} files there, all of one size")
    return flat or found


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def _open(path: Path) -> Any:
    """The decoded picture, closed again: a big folder must not run out of file handles."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
            mode = picture.mode
            copy = picture.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no whole picture ({error}); replace or remove it") from error
    if mode.startswith(("I", "F")):
        raise DataError(f"{path} has more than 8 bits a channel (mode {mode}); convert it to 8 bits")
    return copy

"""Make the embedded set `ppvae/data/digits.npz` from MNIST, the same bytes every time.

    PPVAE_DATA=... python benchmarks/make_digits.py [--root FOLDER] [--out FILE]

From the four IDX files of MNIST, with the seed S = `embedded.SEED`:

1. x ~ Bernoulli(grey / 255), one draw for the 60,000 training pictures in their order (seed [S, 0]) and
   one for the 10,000 test pictures (seed [S, 1]);
2. the training pictures in a random order (seed [S, 2]): the first 50,000 are train, the rest valid; the
   test pictures in a random order (seed [S, 3]), so that the first n are a sample of all classes;
3. bits packed, eight to a byte and the first pixel highest, into a zip of `.npy` members, LZMA inside.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from ppvae.data import seeded
from ppvae.data.embedded import PATH, SEED
from ppvae.data.files import locate, missing
from ppvae.data.mnist import MD5, read

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


def make(root: str | None = None) -> dict[str, np.ndarray]:
    """{train, valid, test: (N, 98) uint8, and {split}_labels: (N,) uint8}."""
    files = [f"MNIST/raw/{name}" for name in MD5["MNIST"]]
    base = locate(files, root)
    if base is None:
        raise missing("mnist", ", ".join(files), root)
    parts = read(base / "MNIST" / "raw", "MNIST")
    drawn = {}
    for k, (split, part) in enumerate(parts.items()):  # train, test
        bits = seeded.bernoulli(torch.from_numpy(part["x"].copy()), (SEED, k), 255).numpy()
        order = seeded.permutation(len(bits), (SEED, 2 + k)).numpy()
        drawn[split] = np.packbits(bits.reshape(len(bits), 784)[order], axis=1), part["y"][order]
    x, y = drawn["train"]
    splits = {"train": (x[:50_000], y[:50_000]), "valid": (x[50_000:], y[50_000:]), "test": drawn["test"]}
    return {split: bits for split, (bits, _) in splits.items()} | {
        f"{split}_labels": labels for split, (_, labels) in splits.items()
    }


def write(arrays: dict[str, np.ndarray]) -> bytes:
    """An `.npz` with LZMA members that depends on nothing but the arrays: no time, no user, no system."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            member.compress_type, member.create_system = zipfile.ZIP_LZMA, 3  # 3: Unix, on any system
            member.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(member, content.getvalue())
    return target.getvalue()


def main() -> None:
    """Write the file and say its hash, which goes into `ppvae/data/embedded.py` and `digits.md`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", help="folder with MNIST/raw/*.gz (default: $PPVAE_DATA, then the cache)")
    parser.add_argument("--out", type=Path, default=PATH)
    options = parser.parse_args()
    content = write(make(options.root))
    options.out.write_bytes(content)
    print(f"{options.out}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()

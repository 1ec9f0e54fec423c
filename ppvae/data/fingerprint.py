"""The hash of a data set: equal iff a run would see the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Stored(Protocol):
    """What is hashed of a split."""

    @property
    def fields(self) -> dict[str, Tensor]: ...
    @property
    def steps(self) -> Mapping[str, int]: ...
    @property
    def dynamic(self) -> bool: ...


def fingerprint(splits: Mapping[str, Stored], binarization: str, seed: int | None) -> str:
    """SHA-256 in hex: by split and field the name, type, shape, steps, bytes; and the binarization.

    The device, the order of the fields and the name of the set are left out.
    """
    digest = hashlib.sha256()
    _add(digest, {"binarization": binarization, "seed": seed})
    for split_name, split in splits.items():
        _add(digest, {"split": split_name, "dynamic": split.dynamic, "fields": len(split.fields)})
        if (further := getattr(split, "digest", None)) is not None:
            _add(digest, further)  # its fields are those of one file of several
        for name, value in sorted(split.fields.items()):
            header = [name, str(value.dtype), list(value.shape), split.steps.get(name)]
            _add(digest, header)
            digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _add(digest, header: object) -> None:
    """A line of JSON, its length first, so that no two sequences of headers read the same."""
    line = json.dumps(header, sort_keys=True).encode()
    digest.update(len(line).to_bytes(8, "little") + line)

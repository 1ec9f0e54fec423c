"""From arrays of any make to the compact tensors of `Split`, with one clear line for what cannot be used.

`Parts` is {split: {field: array}}; a source that has no splits of its own calls its only part "train".
The rules for x:

- uint8 is a picture in bytes (value / 255), or in bits where nothing exceeds 1; bool is bits. A count is
  neither: give it as a wider integer. (N, H, W) becomes (N, 1, H, W), unless a field `lengths` says that
  x is a sequence;
- (N, H, W, C) becomes (N, C, H, W) for C = 1, 3, 4, unless the second dimension looks like channels;
- float64 stays, other floats become float32; where every float32 value is one of k / 255, or 0 and 1, it
  is stored as a byte, or a bit, and comes back as exactly the same float32;
- NaN is a missing value: 0 in x, False in the field `mask`. An infinity is an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.data.dataset import Dataset, Split
from ppvae.errors import DataError

Parts = dict[str, dict[str, Any]]
CHANNELS = (1, 3, 4)


def from_parts(name: str, parts: Parts, **about: Any) -> Dataset:
    """A `Dataset` of the given parts; DataError says which field of which split cannot be used, and why."""
    _same_fields(name, parts)
    tensors, classes = _labels(name, parts)
    for split, fields in tensors.items():
        for key, value in fields.items():
            _check_rows(f"{key} of {_part(name, split, tensors)}", value, key)
        lengths = {key: len(value) for key, value in fields.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"the fields of {_part(name, split, tensors)} have different lengths {lengths}; "
                f"give every field one row per datum"
            )
        tensors[split] = _complete(_part(name, split, tensors), _layout(fields))
    masked = any("mask" in fields for fields in tensors.values())
    for fields in tensors.values():
        if masked and "mask" not in fields:
            fields["mask"] = torch.ones_like(fields["x"], dtype=torch.bool)
    steps = _compact(tensors)
    splits = {split: Split(fields, steps) for split, fields in tensors.items()}
    return Dataset(name=name, **splits, **{"classes": classes, **about})


def to_tensor(what: str, array: Any) -> Tensor:
    """A fresh CPU tensor: bool, uint8, int64, float32 or float64. `what` names it in the DataError."""
    if isinstance(array, Tensor):
        if array.layout != torch.strided or array.is_complex():
            raise DataError(f"{what} is {array.layout} {array.dtype}; give a dense tensor of real numbers")
        tensor = array.detach().cpu().clone(memory_format=torch.contiguous_format)
    else:
        tensor = _from_numpy(what, array)
    if tensor.is_floating_point():
        return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
    return tensor if tensor.dtype in (torch.bool, torch.uint8) else tensor.to(torch.int64)


def _from_numpy(what: str, array: Any) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):  # np.asarray would drop its mask without a word
        array = np.ma.filled(array.astype(np.result_type(array.dtype, np.float32)), np.nan)
    try:
        array = np.asarray(array)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{what} is no array ({error}); give rows of equal length") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} is not numeric ({array.dtype}); encode it as numbers first")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{what} exceeds the range of int64; give smaller numbers or floats")
    native = array.dtype.newbyteorder("=")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        native = np.dtype(np.int64)
    return torch.from_numpy(np.array(array, dtype=native, order="C", copy=True))


def _same_fields(name: str, parts: Parts) -> None:
    for split, fields in parts.items():
        if "x" not in fields:
            raise DataError(
                f"{_part(name, split, parts)} has no field x but {sorted(fields)}; "
                f"call the observed array x, its labels y"
            )
        if set(fields) != set(parts["train"]):
            raise DataError(
                f"{name}: the {split} split has the fields {sorted(fields)}, train {sorted(parts['train'])}; "
                f"give every split the same fields"
            )


def _labels(name: str, parts: Parts) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Everything as tensors; a y of strings becomes indices into the sorted names of its classes."""
    words = {
        split: np.asarray(fields["y"])
        for split, fields in parts.items()
        if "y" in fields and not isinstance(fields["y"], Tensor)
    }
    words = {split: y.astype(str) for split, y in words.items() if _is_text(y)}
    if words and len(words) < len(parts):
        raise DataError(f"y of {name} is text in {sorted(words)} only; give every split the same labels")
    classes = tuple(np.unique(np.concatenate(list(words.values()))).tolist()) if words else ()
    tensors = {}
    for split, fields in parts.items():
        y = {"y": np.searchsorted(np.array(classes), words[split])} if words else {}
        part = _part(name, split, parts)
        tensors[split] = {key: to_tensor(f"{key} of {part}", v) for key, v in {**fields, **y}.items()}
    return tensors, classes


def _is_text(y: np.ndarray) -> bool:
    return y.dtype.kind == "U" or (y.dtype == object and all(isinstance(word, str) for word in y.flat))


def _check_rows(what: str, value: Tensor, field: str) -> None:
    if value.ndim == 0:
        raise DataError(f"{what} is a single number; give one row per datum")
    if len(value) == 0 or value.numel() == 0:
        raise DataError(f"{what} is empty, of shape {tuple(value.shape)}; give one row or more")
    if field == "x" and value.ndim == 1:
        raise DataError(
            f"{what} has the shape {tuple(value.shape)}, a datum is a row: "
            f"give x[:, None] for {len(value)} data of one number, x[None] for a single datum"
        )
    if value.is_floating_point():
        infinite, nan = int(value.isinf().sum()), int(value.isnan().sum())
        if infinite:
            raise DataError(
                f"{what} has {infinite} infinite values; remove them, or set them to NaN to mark them missing"
            )
        if nan and field != "x":
            raise DataError(f"{what} has {nan} NaN; only x may have missing values, remove those rows")
        if nan == value.numel():
            raise DataError(f"{what} is all NaN; give data with at least one observed value")


def _layout(fields: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pictures as (N, C, H, W), and the mask along with them."""
    x = fields["x"]

    def layout(value: Tensor) -> Tensor:
        if x.dtype in (torch.uint8, torch.bool) and x.ndim == 3 and "lengths" not in fields:
            return value.unsqueeze(1)
        if x.ndim == 4 and x.shape[1] not in CHANNELS and x.shape[-1] in CHANNELS:
            return value.movedim(-1, 1).contiguous()
        return value

    same = [key for key in ("mask",) if key in fields and fields[key].shape == x.shape]
    return {**fields, **{key: layout(fields[key]) for key in ("x", *same)}}


def _complete(part: str, fields: dict[str, Tensor]) -> dict[str, Tensor]:
    """Missing entries out of x and into the mask (True = observed); a mask that is given counts too."""
    x, mask = fields["x"], fields.get("mask")
    if mask is not None:
        if mask.shape != x.shape:
            raise DataError(
                f"mask of {part} has the shape {tuple(mask.shape)}, x {tuple(x.shape)}; "
                f"give one truth value for every entry of x"
            )
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise DataError(f"mask of {part} has values besides 0 and 1; give True for observed entries")
        mask = mask.bool()
    if x.is_floating_point() and bool((nan := x.isnan()).any()):
        mask = ~nan if mask is None else mask & ~nan
    if mask is None:
        return fields
    return {**fields, "x": x.masked_fill(~mask, 0), "mask": mask}


def _compact(tensors: dict[str, dict[str, Tensor]]) -> dict[str, int]:
    """Store x in steps where nothing is lost, and small whole numbers as uint8; returns the steps."""
    xs = {split: fields["x"] for split, fields in tensors.items()}
    steps = next((s for s in (1, 255) if all(_in_steps(x, s) for x in xs.values())), None)
    for split, fields in tensors.items():
        if steps is not None:
            x = xs[split]
            fields["x"] = (x * steps).round().to(torch.uint8) if x.is_floating_point() else x.to(torch.uint8)
        for key, value in fields.items():
            if value.dtype == torch.int64 and int(value.min()) >= 0 and int(value.max()) < 256:
                fields[key] = value.to(torch.uint8)
    return {} if steps is None else {"x": steps}


def _in_steps(x: Tensor, steps: int) -> bool:
    if x.dtype == torch.bool:
        return True
    if x.dtype == torch.uint8:
        return int(x.max()) <= steps
    if x.dtype != torch.float32:
        return False

    def exact(rows: Tensor) -> bool:
        return bool((((rows * steps).round() / steps == rows) & (rows >= 0) & (rows <= 1)).all())

    return exact(x[:16]) and exact(x)  # most continuous data fail within the first rows


def _part(name: str, split: str, parts: Any) -> str:
    return name if len(parts) == 1 else f"{name} ({split})"

"""Tables and torch datasets, brought into memory as arrays."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

from ppvae.errors import DataError


def is_frame(what: Any) -> bool:
    """Whether `what` is a pandas DataFrame, without importing pandas for it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(what, pandas.DataFrame)


def read_frame(frame: Any) -> dict[str, Any]:
    """{"x": (rows, columns)}; a column called `y` becomes the labels. Missing values become NaN.

    x is float32 if every column is, else float64. DataError names the columns that are no numbers.
    """
    columns = {str(name): frame.iloc[:, k] for k, name in enumerate(frame.columns)}
    if len(columns) < len(frame.columns):
        raise DataError(f"the table has two columns of one name in {list(frame.columns)}; rename one")
    labels = {"y": _labels(columns.pop("y"))} if "y" in columns and len(columns) > 1 else {}
    wrong = [name for name, column in columns.items() if not _is_number(column)]
    if wrong:
        raise DataError(
            f"the table has columns that are not numbers: {', '.join(wrong)}; drop them or encode them "
            f"(pandas.get_dummies), and call a column of labels y"
        )
    if not columns or not len(frame):
        raise DataError(f"the table is empty, of shape {tuple(frame.shape)}; give a row and a column")
    kind = np.float32 if all(str(c.dtype).lower() == "float32" for c in columns.values()) else np.float64
    arrays = [column.to_numpy(dtype=kind, na_value=np.nan) for column in columns.values()]
    return {"x": np.stack(arrays, axis=1), **labels}


def _is_number(column: Any) -> bool:
    return str(column.dtype).lower().startswith(("int", "uint", "float", "bool"))


def _labels(column: Any) -> np.ndarray:
    if column.isna().any():
        raise DataError("the column y of the table has missing labels; remove those rows")
    return column.to_numpy() if isinstance(column.dtype, np.dtype) else np.asarray(column.tolist())


def read_items(dataset: TorchDataset) -> dict[str, Any]:
    """Every item of a torch dataset, stacked: items are x, (x, y) or dicts; x may be a PIL picture."""
    if isinstance(dataset, TensorDataset):
        return _named(dataset.tensors, "the TensorDataset")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError("a torch dataset without a length cannot be split; give one with __len__")
    rows: dict[str, list[Tensor]] = {}
    for k in range(len(dataset)):  # pyright: ignore[reportArgumentType]
        item = dataset[k]
        fields = item if isinstance(item, dict) else _named(item, f"item {k}")
        if k and set(fields) != set(rows):
            raise DataError(
                f"item {k} has the fields {sorted(fields)}, item 0 {sorted(rows)}; make them equal"
            )
        for name, value in fields.items():
            rows.setdefault(str(name), []).append(_entry(name, k, value, rows))
    if not rows:
        raise DataError("the torch dataset is empty; give at least one item")
    return {name: torch.stack(values) for name, values in rows.items()}


def _entry(name: str, k: int, value: Any, rows: dict[str, list[Tensor]]) -> Tensor:
    """One field of item k as a tensor, of the shape that item 0 has."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)  # numbers, arrays, PIL pictures
        if array.dtype.kind not in "biuf":
            raise DataError(f"{name} of item {k} is a {type(value).__name__}; give tensors or numbers")
        # a Python number: whole ones are labels, the others float32 as torch has them
        array = array.astype(np.float32) if isinstance(value, float) else array
        value = torch.from_numpy(np.array(array))
    before = rows.get(name)
    if before and (value.shape, value.dtype) != (before[0].shape, before[0].dtype):
        raise DataError(
            f"{name} of item {k} has shape {tuple(value.shape)} and type {value.dtype}, of item 0 "
            f"{tuple(before[0].shape)} and {before[0].dtype}; give all items one shape and type"
        )
    return value.detach().cpu()


def _named(item: Any, what: str) -> dict[str, Any]:
    if not isinstance(item, tuple | list):
        return {"x": item}
    if len(item) not in (1, 2):
        raise DataError(f"{what} is a tuple of {len(item)}; give x, (x, y) or a dict of named fields")
    return dict(zip(("x", "y"), item, strict=False))

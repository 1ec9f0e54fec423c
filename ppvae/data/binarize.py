"""From grey pictures to bits, in the three ways of the literature, which give different numbers.

static: one draw of Bernoulli(x) for all time; dynamic: a fresh draw in every batch (Burda, Grosse,
Salakhutdinov 2016); threshold: x > 1/2. Bounds on the three cannot be compared with each other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch

from ppvae.data.dataset import MODES, Binarization, Dataset, Split
from ppvae.errors import DataError, UsageError, nearest


def binarize(dataset: Dataset, mode: str, seed: int = 0) -> Dataset:
    """The set with x binarized by `mode`: "none", "static", "dynamic" or "threshold".

    `seed` fixes the static draw, and the draws of `Dataset.fixed` on a dynamic set. UsageError for
    another mode; DataError for an x that is binary already or no probability.
    """
    if mode not in MODES:
        raise UsageError(
            f"no binarization {mode!r}{nearest(mode, MODES) or '.'} There are: {', '.join(MODES)}"
        )
    if mode == dataset.binarization:
        return dataset
    if dataset.binarization in ("static", "threshold"):
        raise DataError(
            f"{dataset.name} is binarized already ({dataset.binarization}), its grey values are gone; "
            f"leave binarization out, or load the grey set (mnist for digits) with {mode!r}"
        )
    if mode == "threshold" and not dataset.train.held:
        raise DataError(
            f"{dataset.name} is read shard by shard: use 'static' or 'dynamic', or threshold it there"
        )
    if mode != "none":
        _check_probability(dataset)
    grey = replace(dataset, **{name: replace(split, dynamic=False) for name, split in dataset.splits.items()})
    made = replace(grey, binarization=cast(Binarization, mode), binarization_seed=None)
    if mode == "none":
        return made
    if mode == "threshold":
        return replace(made, **{name: _threshold(split) for name, split in grey.splits.items()})
    drawn = {name: replace(split, dynamic=True) for name, split in grey.splits.items()}
    made = replace(made, binarization_seed=seed, **drawn)
    if mode == "static":  # the fixed draw of the dynamic set, kept for good
        made = replace(made, **{name: made.fixed(name) for name in drawn})
    return made


def _check_probability(dataset: Dataset) -> None:
    fix = "leave binarization out"
    if dataset.levels == 2 and dataset.binarization == "none":
        raise DataError(f"x of {dataset.name} is binary already; {fix}")
    for split in dataset.splits.values():
        x = split.fields.get("x")
        if x is None or (not x.is_floating_point() and "x" not in split.steps):
            raise DataError(f"x of {dataset.name} holds no grey values; {fix}, or give uint8 pictures")
        if x.is_floating_point() and not bool(((x >= 0) & (x <= 1)).all()):
            low, high = x.min().item(), x.max().item()
            raise DataError(
                f"x of {dataset.name} lies in [{low:.4g}, {high:.4g}], not in [0, 1], so it cannot be "
                f"binarized; scale it to [0, 1] first, or {fix}"
            )


def _threshold(split: Split) -> Split:
    """x > 1/2; for bytes that is x > 127."""
    x = split.fields["x"]
    bits = x > split.steps["x"] // 2 if "x" in split.steps else x > 0.5
    return Split({**split.fields, "x": bits.to(torch.uint8)}, {**split.steps, "x": 1})

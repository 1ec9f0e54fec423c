"""What training goes on from beside parameters: the state of optimizers and of random generators.

Both are split into tensors by name and what JSON can hold, as a checkpoint keeps them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.errors import UsageError


def flatten(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split an optimizer's `state_dict()` into tensors by name and what JSON can hold; copies no tensor.

    Takes any nesting of dicts (keys of any plain kind), lists, tuples, numbers, texts, None and tensors.
    Raises UsageError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _flatten(state, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """The exact inverse of `flatten`."""
    if isinstance(tree, list):
        return [unflatten(tensors, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        tag, value = next(iter(tree.items()))
        if tag == "@tensor":
            return tensors[value]
        if tag == "@tuple":
            return tuple(unflatten(tensors, item) for item in value)
        if tag == "@dict":
            return {unflatten(tensors, k): unflatten(tensors, v) for k, v in value}
    return {key: unflatten(tensors, value) for key, value in tree.items()}


def _flatten(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        name = path or "value"
        while name in tensors:  # keys 1 and "1", or "a.b" beside a nested a and b
            name += "_"
        tensors[name] = node.detach()
        return {"@tensor": name}
    if node is None or isinstance(node, str | bool | int | float):
        return node
    below = f"{path}." if path else ""
    if isinstance(node, tuple | list):
        items = [_flatten(item, f"{below}{i}", tensors) for i, item in enumerate(node)]
        return items if isinstance(node, list) else {"@tuple": items}
    if isinstance(node, Mapping):
        if all(isinstance(key, str) and not key.startswith("@") for key in node):
            return {key: _flatten(value, below + key, tensors) for key, value in node.items()}
        return {
            "@dict": [
                [_flatten(k, "", tensors), _flatten(v, f"{below}{k}", tensors)] for k, v in node.items()
            ]
        }
    raise UsageError(
        f"{path or 'the state'} is a {type(node).__name__}, which a checkpoint does not hold: use tensors, "
        "numbers, texts, and lists and dicts of them"
    )


def noise_seed(seed: int, rank: int = 0, step: int = 0) -> int:
    """What a rank's draws are seeded with from `step` on, seed + 10,000 rank + 7,368,787 step mod 2^32: two
    ranks with equal noise would add up its errors, and not its information."""
    return (seed + 10_000 * rank + 7_368_787 * step) % 2**32


def capture_generators() -> tuple[dict[str, Tensor], Any]:
    """The state of the generators of torch (CPU, and CUDA where it is in use), numpy and Python, as `flatten`
    splits it. Draws nothing."""
    kind, words, spare = random.getstate()
    name, keys, position, has_normal, normal = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": [kind, torch.tensor(words), spare],
        "numpy": [name, torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_normal, normal],
    }
    return flatten(state)


def restore_generators(tensors: Mapping[str, Tensor], tree: Any) -> None:
    """Set the generators to what `capture_generators` found; CUDA devices that are not here are left out."""
    state = unflatten(tensors, tree)
    kind, words, spare = state["python"]
    name, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate((kind, tuple(words.tolist()), spare))
    devices = state["cuda"][: torch.cuda.device_count()]
    if devices:
        torch.cuda.set_rng_state_all(devices)

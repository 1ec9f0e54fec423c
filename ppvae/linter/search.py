"""Look into objects and functions for what they hold: tensors and modules that PyTorch does not know of."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ppvae.linter import places

DEPTH = 8


@dataclass
class Held:
    """Something that was found, and how it is reached."""

    thing: Any
    path: str
    owner: Any
    """The object of the user's, or the function, that holds it."""
    attribute: str
    kind: str = "other"
    """list, dict or other: what stands between the owner and the thing."""


def find(root: Any, tensor: Tensor, name: str) -> Held | None:
    """The shortest way from `root`, called `name`, to a tensor."""
    return next((held for held in walk(root, name) if held.thing is tensor), None)


def modules(root: Any) -> list[nn.Module]:
    """The modules that an object or function reaches, also by a closure or a global."""
    return [held.thing for held in walk(root, "") if isinstance(held.thing, nn.Module)]


def walk(root: Any, name: str) -> Iterator[Held]:
    """Everything within reach, nearest first."""
    queue = [(Held(root, name, root, ""), 0)]
    seen: set[int] = set()
    while queue:
        held, depth = queue.pop(0)
        thing = held.thing
        if id(thing) in seen:
            continue
        yield held
        if depth > DEPTH or isinstance(thing, Tensor | str | int | float | types.ModuleType):
            continue
        seen.add(id(thing))
        for part, step, key in _members(thing):
            queue.append((_next(held, part, step, key), depth + 1))


def _next(held: Held, part: Any, step: str, key: str) -> Held:
    thing, path = held.thing, held.path + step
    if isinstance(thing, list | tuple | Mapping):
        # The attribute that holds the container is the one to change.
        inner = "dict" if isinstance(thing, Mapping) else "list"
        return Held(part, path, held.owner, held.attribute, inner if held.kind == "other" else held.kind)
    if isinstance(thing, nn.Module) and not places.is_users(places.of_object(type(thing)).file or ""):
        return Held(part, path, held.owner, held.attribute, held.kind)
    return Held(part, path, thing, key)


def _members(thing: Any) -> list[tuple[Any, str, str]]:
    """(part, how it is written, its key)."""
    if isinstance(thing, types.MethodType):
        return [(thing.__self__, "", "")]
    if isinstance(thing, types.FunctionType):
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=False)
        enclosed = [(name, cell.cell_contents) for name, cell in cells if _filled(cell)]
        names = [name for name in thing.__code__.co_names if name in thing.__globals__]
        loaded = [(name, thing.__globals__[name]) for name in names]
        return [
            (part, f": {name}", name) for name, part in [*enclosed, *loaded] if not isinstance(part, type)
        ]
    if isinstance(thing, Mapping):
        return [(part, f"[{key!r}]", str(key)) for key, part in thing.items()]
    if isinstance(thing, list | tuple):
        return [(part, f"[{i}]", str(i)) for i, part in enumerate(thing)]
    if isinstance(thing, nn.Module):
        held = {**thing._parameters, **thing._buffers, **thing._modules}
        own = {k: v for k, v in vars(thing).items() if k not in ("_parameters", "_buffers", "_modules")}
        return [(part, f".{key}", key) for key, part in {**held, **own}.items()]
    return [(part, f".{key}", key) for key, part in getattr(thing, "__dict__", {}).items()]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True

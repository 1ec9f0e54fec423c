"""Calling modules in another way for a while, without touching what they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

Around = Callable[[Callable[..., Any]], Callable[..., Any]]
"""From a module's forward to what is called instead."""


@contextlib.contextmanager
def called_as(modules: Iterable[nn.Module], around: Around) -> Iterator[None]:
    """Inside, each module's forward is `around(forward)`; parameters, hooks and names stay."""
    changed = list(dict.fromkeys(modules))
    for module in changed:
        module.__dict__["forward"] = around(module.forward)  # of the instance: before that of its class
    try:
        yield
    finally:
        for module in changed:
            del module.__dict__["forward"]


def modules_of(kinds: tuple[type[nn.Module], ...], parts: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules of these kinds in the parts, each once."""
    return list(dict.fromkeys(m for part in parts for m in part.modules() if isinstance(m, kinds)))

"""Which operations wait for the device, and the line of code that led to each.

A step is handed to the device faster than the device works it off. Whoever asks for a number (`.item()`,
`if`) has to wait until all of it is done, and the device then has nothing to do until the next work comes. On
a CPU, where both are one, it costs nothing by itself; but what asks for a number cannot be part of a graph.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch

import ppvae
from ppvae.engine import untraceable
from ppvae.linter.places import of_caller

CHECKED = "_linalg_check_errors"
"""Whether a factorization or a solution succeeded: torch.linalg asks the device, and raises."""
BACKWARD = "the backward pass"
_AUTOGRAD = str(Path(torch.autograd.__file__).parent)
_ROOT = Path(ppvae.__file__).parent
_OWN = Path(__file__).parent


def waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation on these arguments waits: those that a graph cannot have, and two that it can."""
    name = func._schema.name.removeprefix("aten::")
    return untraceable.waits(func, args, kwargs) or name == CHECKED or _leaves_the_device(name, args, kwargs)


def _leaves_the_device(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name == "_to_copy":
        source, target = args[0].device, kwargs.get("device") or args[0].device
    elif name == "copy_":
        source, target = args[1].device, args[0].device
    else:
        return False
    here = torch.device(target).type == "cpu" and source.type != "cpu"
    return here and not kwargs.get("non_blocking", args[2] if len(args) > 2 else False)


def place_of(stop: types.CodeType) -> str:
    """`file:line` of the innermost line of the user's below the frame that runs `stop`; where there is none,
    of the library's, or `BACKWARD`."""
    found = of_caller(stop)
    if found.file is not None:
        return shown(Path(found.file), found.line)
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not stop:
        path = Path(frame.f_code.co_filename)
        if str(path).startswith(_AUTOGRAD):
            return BACKWARD
        if path.is_relative_to(_ROOT) and not path.is_relative_to(_OWN):
            return shown(path, frame.f_lineno)
        frame = frame.f_back
    return "torch itself"


def shown(path: Path, line: int | None) -> str:
    """Relative to the current folder, or to ours, where the file lies in one of them."""
    for folder in (Path.cwd(), _ROOT.parent):
        if path.is_relative_to(folder):
            return f"{path.relative_to(folder)}:{line}"
    return f"{path}:{line}"

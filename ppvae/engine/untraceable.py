"""Why a step is no flat graph: each reason in one line that says what to change."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NUMBERS = ("_local_scalar_dense", "is_nonzero", "item", "equal", "allclose")
"""Operations that ask the device for a number."""
WAITS = (*NUMBERS, "nonzero", "masked_select", "unique", "_unique", "bincount")
"""The starts of their names, and of those whose shape depends on a number."""
MASKED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
"""Those whose indices may be masks, which have to be counted."""

GENERATOR = "a draw has a generator of its own: draw from torch's default one"


class CannotTrace(Exception):
    """The computation is no flat graph; its text is the reason, in one line."""


class Refusing(TorchDispatchMode):
    """Inside, an operation that waits for the device is refused where it stands in the code."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if waits(func, args, kwargs or {}):
            raise Waits(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


class Waits(Exception):
    """An operation waits for the device; its name."""


def waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation on these arguments needs a number, or a shape, that only the device knows."""
    name = func._schema.name.removeprefix("aten::")
    if name in MASKED:
        return _by_mask(args) and not _fills(args, kwargs)
    return name.startswith(WAITS)


def _by_mask(args: tuple[Any, ...]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _fills(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """`x[mask] = number` is a masked_fill; only adding up needs the places."""
    accumulate = kwargs.get("accumulate", args[3] if len(args) > 3 else False)
    return len(args) > 2 and args[2].numel() == 1 and not accumulate


def explained(error: BaseException) -> str:
    """One line for what stopped the tracing."""
    name, text = type(error).__name__, (str(error).splitlines() or [""])[0]
    chain = [error]
    while chain[-1].__cause__ is not None or chain[-1].__context__ is not None:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)  # type: ignore[arg-type]
    names = {type(link).__name__ for link in chain}
    if names & {"DataDependentOutputException", "GuardOnDataDependentSymNode"} or text in NUMBERS:
        return (
            "a number is read off a tensor (.item(), float(), if): use torch.where, or keep it a tensor "
            f"({_place(error)})"
        )
    if names & {"DynamicOutputShapeException", "Waits"}:
        return (
            "the shape of a tensor depends on its numbers (nonzero, a boolean index): use a mask "
            f"({_place(error)})"
        )
    if "torch._C.Generator" in text:  # up to torch 2.10; later ones trace it
        return f"{GENERATOR} ({_place(error)})"
    return f"{name}: {text} ({_place(error)})" if text else f"{name} ({_place(error)})"


def _place(error: BaseException) -> str:
    """The last line outside torch and Pyro that led there."""
    place, trace = "unknown place", error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if "/torch/" not in path and "/pyro/" not in path and "/ppvae/engine/" not in path:
            place = f"{'/'.join(path.rsplit('/', 2)[-2:])}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place

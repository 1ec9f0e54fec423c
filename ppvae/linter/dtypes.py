"""Types of numbers: which promote silently, and what to do where they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppvae.linter import places
from ppvae.linter.places import Place
from ppvae.linter.record import Run
from ppvae.linter.subject import Subject

_DTYPES = (
    r"same dtype",
    r"expected scalar type",
    r"Input type .* and bias type",
    r"Input type .* and weight type",
    r"result type .* can't be cast",
    r"not implemented for '(Long|Int|Bool|Byte|Char)'",
    r"Only Tensors of floating point",
    r"to be a floating",
)


def mixed(subject: Subject, run: Run, text: str, where: Place, inputs: Mapping[str, Any]) -> bool:
    """Whether an exception speaks of types that do not fit; if so, it is reported."""
    if not any(re.search(pattern, text) for pattern in _DTYPES):
        return False
    subject.error(
        "dtype",
        f"the {run.role} mixes types ({_dtypes(subject, inputs)}): {text}",
        where,
        _cast(inputs, parameter_dtype(subject)),
    )
    return True


def types(subject: Subject) -> None:
    """Types that promote silently."""
    known = parameter_dtype(subject)
    for name, value in subject.inputs.items():
        if known is not None and value.is_floating_point() and value.dtype != known:
            subject.warn(
                "dtype",
                f"field {name!r} is {str(value.dtype)[6:]} and the parameters are {str(known)[6:]}: "
                "scores are computed in the wider type",
                places.of_forward(subject.part("model")),
                f"give {name} as {str(known)[6:]}",
                name,
            )


def parameter_dtype(subject: Subject) -> torch.dtype | None:
    return next((p.dtype for p in subject.built.parameters() if p.is_floating_point()), None)


def _dtypes(subject: Subject, inputs: Mapping[str, Any]) -> str:
    parts = [f"{n} is {_short(v.dtype)}" for n, v in inputs.items() if isinstance(v, Tensor)]
    known = parameter_dtype(subject)
    return ", ".join([*parts, *([f"parameters are {_short(known)}"] if known else [])])


def _cast(inputs: Mapping[str, Any], known: torch.dtype | None) -> str:
    if (
        any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in inputs.values())
        and known == torch.float64
    ):
        return "make constants in the parameters' type, weight.new_zeros(...), or give the data as float32"
    double = [n for n, v in inputs.items() if isinstance(v, Tensor) and v.dtype == torch.float64]
    if double:
        return f"give {double[0]} as float32 ({double[0]}.float()), or build the modules in float64"
    whole = [n for n, v in inputs.items() if isinstance(v, Tensor) and not v.is_floating_point()]
    if whole:
        return f"convert {whole[0]} before a net takes it ({whole[0]}.float(), or one_hot for classes)"
    return "make both sides one type, .float()"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""A flat graph, compiled by inductor; its draws are those of eager torch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ppvae.engine.operations import VERSION
from ppvae.engine.rewriting import rewritten

PATCHES = {
    # Inductor's own generator on the CPU draws other numbers than eager, one by one.
    "fallback_random": True,
    # The layouts that it would choose make convolutions slower than eager on the CPU.
    "layout_optimization": False,
    # What a compiled graph is given is looked at here, by kind, and once against the eager step.
    "size_asserts": False,
}

Compiled = Callable[..., Sequence[Tensor]]


class CannotCompile(Exception):
    """There is no compiled graph; the text is the reason, in one line."""


def missing_compiler(device: torch.device) -> str | None:
    """What is missing to compile for this device, and how to get it; None where all is there."""
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "there is no C++ compiler: install g++ (apt install g++), or name one in the variable CXX"
    else:
        from torch.utils._triton import has_triton

        if not has_triton():
            return "there is no Triton, which writes code for GPUs: pip install triton"
    return None


def compiled(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Compiled:
    """The graph as one call of machine code for inputs like these; what it writes to is written in place.

    Raises:
        CannotCompile: with the reason in one line.
    """
    from torch._inductor import standalone_compile

    reason = missing_compiler(inputs[0].device if inputs else torch.device("cpu"))
    if reason is not None:
        raise CannotCompile(reason)
    options: dict[str, Any] = {"config_patches": dict(PATCHES)}
    try:
        with _quiet(), torch.no_grad(), torch.compiler.config.patch(cache_key_tag=f"ppvae {VERSION}"):  # type: ignore[attr-defined]
            return standalone_compile(
                rewritten(graph),
                list(inputs),
                dynamic_shapes="from_example_inputs",
                options=options,
            )
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise CannotCompile(f"the compiler stopped, {type(error).__name__}: {text}") from error


@contextlib.contextmanager
def _quiet():
    """The compiler's warnings speak of its own code."""
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""Runs that can be compared: in evaluation mode, at the same draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppvae.linter.subject import Subject
from ppvae.terms import Terms

TOLERANCE = 1e-3
"""Relative: float32 kernels of different shapes differ by far less, a leak by far more."""


def replayed(
    subject: Subject, inputs: Mapping[str, Tensor], latents: Any = None, seed: int | None = None
) -> Terms | None:
    return subject.score(inputs, subject.latents if latents is None else latents, 1, seed)[0]


def differs(before: Tensor, after: Tensor) -> bool:
    return not torch.allclose(before, after, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


class evaluation:
    """Evaluation mode for a while, each module's own flag put back after."""

    def __init__(self, subject: Subject):
        self.flags = [(module, module.training) for module in subject.built.modules()]

    def __enter__(self) -> None:
        for module, _ in self.flags:
            module.training = False

    def __exit__(self, *error: object) -> None:
        for module, flag in self.flags:
            module.training = flag

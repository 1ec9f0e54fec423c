"""A look at what a pair draws, which nobody else notices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def looking(scorer: Any = None, seed: int = 0) -> Iterator[None]:
    """No gradients, a seed of its own, and eval mode of `scorer` where it has one: no step of training.

    Training flags and the random states of all devices are put back after.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    resting = getattr(scorer, "in_eval_mode", contextlib.nullcontext)
    with torch.random.fork_rng(devices=devices), torch.no_grad(), resting():
        torch.manual_seed(seed)
        yield

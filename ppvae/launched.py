"""Which process this is, of how many, as a launcher such as torchrun says it in the environment.

This file imports neither torch nor Pyro, so that `ppvae --help` answers at once.
"""

from __future__ import annotations

import os

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torch.distributed needs to bring the processes together; a process without them all is alone."""


def size() -> int:
    """How many processes were started to work together."""
    return int(os.environ["WORLD_SIZE"]) if set(NAMES) <= set(os.environ) else 1


def rank() -> int:
    """Which of them this is, from 0 on."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def local_rank() -> int:
    """Which of those on this machine this is, from 0 on: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", rank()))

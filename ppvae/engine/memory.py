"""What C's allocator does with freed memory: by default it hands large pieces back to the system at once.

A step then has every page of its activations mapped and cleared anew, which with many particles is a good
part of its time. Asked to keep what is freed, the allocator has them at hand in the next one.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

KEPT = 1 << 30
"""So many bytes of freed memory may stay with the process."""
LARGEST = 32 << 20
"""Larger pieces come from the system all the same; glibc takes no higher limit."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@cache
def keep_freed_memory() -> bool:
    """Ask for that, once and for the whole process; False where the allocator is not glibc's."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT) and mallopt(_MMAP_THRESHOLD, LARGEST))

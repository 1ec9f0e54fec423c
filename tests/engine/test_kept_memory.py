"""Freed memory stays at hand for the next step."""

import os
import subprocess
import sys

import pytest

from ppvae.engine import EagerStep
from ppvae.engine import eager as eager_module
from ppvae.engine.memory import keep_freed_memory

FAULTS = """
import ctypes, resource, sys
import torch
from ppvae.engine.memory import keep_freed_memory
M_MMAP_THRESHOLD = -3
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 17)  # as a process begins; glibc may raise it by itself
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    held = [torch.ones(20 << 18) for _ in range(4)]  # 20 MB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5)
"""

# By itself glibc raises its limits when large pieces are freed, or not, as the heap happens to allow.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


@pytest.mark.skipif(not keep_freed_memory(), reason="the allocator is not glibc's")
def test_pages_are_mapped_once():
    """80 MB a step are 20,480 pages of 4 kB; kept, none of them is mapped anew."""
    faults = {
        how: float(
            subprocess.run(
                [sys.executable, "-c", FAULTS, how],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **GIVES_BACK},
            ).stdout
        )
        for how in ("kept", "given back")
    }
    assert faults["kept"] < 100
    assert faults["given back"] > 100 * (1 + faults["kept"])


def test_a_step_asks_for_it(monkeypatch):
    from ppvae import TrainConfig
    from ppvae.build import build
    from ppvae.estimators import find
    from tests.toys import MLP_VAE

    asked = []
    monkeypatch.setattr(eager_module, "keep_freed_memory", lambda: asked.append(True))
    EagerStep(build(MLP_VAE), find("elbo"), TrainConfig())
    assert asked == [True]

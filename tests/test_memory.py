"""Memory: training keeps no trace, and its resident memory does not grow."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ppvae import TrainConfig, registry
from ppvae.build import build
from ppvae.data import Dataset, Split
from ppvae.engine import EagerStep
from ppvae.estimators import find
from ppvae.training import fit
from tests.toys import MLP_VAE, bits

ROOT = Path(__file__).parent.parent


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("estimator", ["elbo", "iwae:particles=3", "analytic_kl"])
def test_no_tensor_is_kept_from_step_to_step(estimator):
    """Exact: as many live tensors after 50 more steps as after the first two."""
    built = build(MLP_VAE)
    step = EagerStep(built, find(estimator), TrainConfig())
    knobs = {"beta": torch.tensor(0.5)}
    batch = bits()
    for _ in range(2):
        step(batch, knobs)
    before = live_tensors()
    for _ in range(50):
        step(batch, knobs)
    assert live_tensors() == before


def test_no_tensor_is_kept_by_the_loop():
    """Exact: fits of 5 and of 60 steps, validated every epoch, leave equally many tensors behind."""
    x = bits(40)["x"]
    data = Dataset(name="toy", train=Split({"x": x[:30]}), valid=Split({"x": x[30:]}))
    counts = []
    for steps in (5, 60):
        trained = fit(MLP_VAE, data, steps=steps, batch=10, log_every=7, check=False, progress=False)
        assert trained.step == steps
        counts.append(live_tensors())
        del trained
    assert counts[0] == counts[1]


SLOPE = """
import gc
import os
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)
from ppvae import registry
from ppvae.data import Dataset, Split
from ppvae.engine import EagerStep
from ppvae.training import fit

page = os.sysconf("SC_PAGE_SIZE")
seen, count = [], 0
call = EagerStep.__call__


def counted(self, *args):
    global count
    count += 1
    if 500 <= count <= 2000 and count % 20 == 0:
        gc.collect()
        seen.append((count, int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6))
    return call(self, *args)


EagerStep.__call__ = counted
x = torch.rand(512, 1, 8, 8).round()
data = Dataset(name="toy", train=Split({"x": x[:448]}), valid=Split({"x": x[448:]}))
fit("vae", data, steps=2000, batch=64, sizes={"latent": 4, "hidden": [32]}, progress=False, check=False)
steps, size = np.array(seen).T
slope = np.polyfit(steps, size, 1)[0] * 1500
print(f"{slope:.3f} MB")
assert slope < 1.0, f"resident memory grew by {slope:.3f} MB between steps 500 and 2000"
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read off /proc")
def test_resident_memory_does_not_grow():
    """Less than 1 MB between steps 500 and 2,000, by a line through 76 readings of a fit of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SLOPE], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_pairs_of_the_library_keep_nothing_either():
    built = build(registry.find("vae"), x_shape=(1, 8, 8), latent=2, hidden=[5])
    step = EagerStep(built, find("elbo"), TrainConfig())
    batch = {"x": torch.rand(4, 1, 8, 8).round()}
    for _ in range(2):
        step(batch, {})
    before = live_tensors()
    for _ in range(20):
        step(batch, {})
    assert live_tensors() == before

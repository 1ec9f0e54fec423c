"""A cache of its own for every test, no network, and the real data where `$PPVAE_DATA` names them."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path_factory):
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for module in ("mnist", "cifar10"):
        monkeypatch.setattr(f"ppvae.data.{module}.download", lambda name, files: "no network in tests")


@pytest.fixture
def nothing(monkeypatch):
    """No data anywhere."""
    monkeypatch.delenv("PPVAE_DATA", raising=False)


@pytest.fixture
def data_root() -> Path:
    """The folder of real data; the test is skipped where there is none."""
    root = os.environ.get("PPVAE_DATA")
    if not root:
        pytest.skip("needs $PPVAE_DATA with the real data sets")
    return Path(root)

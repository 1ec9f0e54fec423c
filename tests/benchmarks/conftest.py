"""The scripts of `benchmarks/` import one another by their bare names, as they do when they are run."""

import importlib
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """`script("twins")` is that script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str) -> Any:
        return importlib.import_module(name)

    return load

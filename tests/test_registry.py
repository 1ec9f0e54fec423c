"""Pairs by name, by module and by file: what is found, what is said where nothing is, what is imported."""

import importlib

import pytest

from ppvae.errors import UsageError
from ppvae.registry import find, names, source_hash

PAIR_FILE = """
from ppvae import Pair

def model(x=None, *, n=None): ...
def guide(x): ...

PAIR = Pair(model=model, guide=guide)
NUMBER = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_pair_is_found_by_file_and_by_module(here):
    (here / "by_place.py").write_text(PAIR_FILE)
    for place in ("by_place.py", "by_place.py:PAIR", "by_place:PAIR", str(here / "by_place.py")):
        assert find(place).name == "by_place"
    assert find("by_place.py").model is find(f"{here}/by_place.py:PAIR").model


def test_what_is_not_there_is_said_with_the_nearest_name(here):
    (here / "named_so.py").write_text(PAIR_FILE)
    for place, message in {
        "vea": "did you mean 'vae'",
        "VAE": "did you mean 'vae'",
        "named_so.py:PIAR": "did you mean 'PAIR'",
        "named_so.py:NUMBER": "write PAIR = Pair",
        "gone.py:PAIR": "no file gone.py: give the path",
        "gone_module:PAIR": "is it installed, and spelt module:NAME",
    }.items():
        with pytest.raises(UsageError, match=message):
            find(place)


def test_a_file_that_is_no_python_is_an_error_with_its_line(here):
    (here / "no_python.py").write_text("x = 1\ndef f(:\n")
    for place in ("no_python.py", "no_python:PAIR"):
        with pytest.raises(UsageError, match=r"no_python\.py:2: invalid syntax: mend that line"):
            find(place)


def test_a_file_that_exits_is_an_error_and_no_exit(here):
    (here / "leaves.py").write_text("import sys; sys.exit('I am out')")
    for place in ("leaves.py", "leaves:PAIR"):
        with pytest.raises(UsageError, match=r"exits when it is imported .'I am out'.: put what runs under"):
            find(place)


def test_the_hash_follows_the_file_however_the_pair_is_named(here):
    file = here / "hashed_so.py"
    file.write_text(PAIR_FILE)
    importlib.invalidate_caches()
    before = {place: source_hash(place) for place in ("hashed_so.py:PAIR", "hashed_so:PAIR")}
    assert len(set(before.values())) == 1
    file.write_text(PAIR_FILE + "# changed")
    for place, digest in before.items():
        assert digest is not None
        assert source_hash(place) not in (None, digest)
    assert all(source_hash(name) is None for name in names())

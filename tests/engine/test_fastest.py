"""Of several ways the fastest is taken, and remembered on this machine."""

import json
import time

import pytest
import torch

from ppvae.engine import fastest as module
from ppvae.engine.fastest import fastest


@pytest.fixture(autouse=True)
def forgotten(monkeypatch, tmp_path):
    """Nothing was measured yet; what is remembered lies in this folder."""
    monkeypatch.setattr(module, "folder", lambda: tmp_path)
    module._remembered.cache_clear()
    yield tmp_path
    module._remembered.cache_clear()


def ways_of(**seconds: float):
    """Ways that take so long, and how often they were made."""
    made = []

    def ways():
        made.append(1)
        return {name: (lambda s=s: time.sleep(s)) for name, s in seconds.items()}

    return ways, made


@pytest.mark.parametrize(
    ("seconds", "way", "spared"),
    [
        ({"own": 10.0, "straight": 5.0, "turned": 6.0}, "straight", 5.0),
        ({"own": 10.0, "straight": 8.0, "turned": 4.0}, "turned", 6.0),
        ({"own": 10.0, "straight": 9.5, "turned": 11.0}, "own", 0.0),
        ({"own": 10.0, "straight": 12.0, "turned": 11.0}, "own", 0.0),
    ],
)
def test_the_fastest_is_taken_where_it_gains_a_tenth(monkeypatch, seconds, way, spared):
    monkeypatch.setattr(module, "_shortest", lambda ways: seconds)
    assert fastest("a kind", ways_of(**seconds)[0]) == (way, spared)


def test_what_was_measured_is_remembered_by_this_process_and_the_next(monkeypatch, forgotten):
    monkeypatch.setattr(module, "_shortest", lambda ways: {"own": 2.0, "other": 1.0})
    ways, made = ways_of(own=0.0, other=0.0)
    assert fastest(["a", [1, 2]], ways) == ("other", 1.0)
    assert fastest(["a", [1, 2]], ways) == ("other", 1.0)
    assert len(made) == 1
    module._remembered.cache_clear()  # as another process begins
    assert fastest(["a", [1, 2]], ways) == ("other", 1.0)
    assert len(made) == 1
    fastest(["a", [1, 3]], ways)
    assert len(made) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    fastest(["a", [1, 3]], ways)
    assert len(made) == 3
    assert len(json.loads((forgotten / module.FILE).read_text())) == 3


def test_a_memory_that_cannot_be_read_or_written_is_none(monkeypatch, forgotten):
    monkeypatch.setattr(module, "_shortest", lambda ways: {"own": 1.0})
    ways, _ = ways_of(own=0.0)
    for broken in ("no json", "[1]", json.dumps({"x": "own"}), json.dumps({"x": ["own", "y"]})):
        (forgotten / module.FILE).write_text(broken)
        module._remembered.cache_clear()
        assert fastest("a kind", ways) == ("own", 0.0)
    monkeypatch.setattr(module, "folder", lambda: forgotten / module.FILE / "under")
    module._remembered.cache_clear()
    assert fastest("a kind", ways) == ("own", 0.0)


def test_the_shortest_run_counts_in_time_of_this_thread(monkeypatch):
    """Other programs make some runs longer; all ways take turns."""
    clock, ran = iter([0.0, 5.0, 5.0, 8.0, 8.0, 9.0, 9.0, 13.0] + [20.0 + i for i in range(40)]), []
    monkeypatch.setattr(module.time, "thread_time", lambda: next(clock))
    ways = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    assert module._shortest(ways, budget=0.0) == {"a": 1.0, "b": 1.0}
    assert ran == ["a", "b"] * 5

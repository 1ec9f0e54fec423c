"""The model of what several processes cost, and the page that shows it."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


ring = script("ring")
page = script("scaling_page")
NETWORK = ring.Network(latency=1e-4, bandwidth=1e9)
DEVICE = ring.Device(overhead=1e-3, update=1e-9, row=1e-10)


def test_an_all_reduce_of_one_is_free_and_a_ring_sends_twice_the_vector_at_most():
    """By hand for two: each sends half the vector twice."""
    assert NETWORK.all_reduce(1e6, 1) == 0
    assert NETWORK.all_reduce(1e6, 2) == pytest.approx(2 * (1e-4 + 0.5e6 / 1e9), rel=1e-12)
    fast = ring.Network(latency=0.0, bandwidth=1e9)
    sent = [fast.all_reduce(1e6, ranks) * 1e9 / 1e6 for ranks in (2, 3, 1000)]
    assert sent == pytest.approx([1, 4 / 3, 1.998], rel=1e-12)


def test_at_the_half_batch_ranks_are_worth_half_their_number():
    for ranks in (2, 8, 64):
        batch = ring.half_batch(DEVICE, NETWORK, 1e6, ranks)
        assert ring.speed_up(DEVICE, NETWORK, 1e6, batch, ranks) == pytest.approx(ranks / 2, rel=1e-9)
        assert ring.speed_up(DEVICE, NETWORK, 1e6, 2 * batch, ranks) > ranks / 2


def test_the_fastest_number_of_ranks_is_fastest():
    found = ring.most_ranks(DEVICE, NETWORK, 1e6, 4096)
    times = {2**k: ring.step(DEVICE, NETWORK, 1e6, 4096, 2**k) for k in range(13)}
    assert times[found] == min(times.values())
    assert 1 < found < 4096


def test_overlap_saves_at_most_the_shorter_of_both_and_costs_where_latency_rules():
    free = ring.Network(latency=0.0, bandwidth=1e9)
    for parameters, batch in ((1e6, 64), (1e6, 6400)):
        step = ring.step(DEVICE, free, parameters, batch, 8)
        backward = 2 / 3 * 1e-10 * parameters * batch / 8
        least = min(backward, free.all_reduce(4 * parameters, 8)) / step
        assert ring.overlap_saves(DEVICE, free, parameters, batch, 8) == pytest.approx(
            least * 7 / 8, rel=1e-9
        )
    assert ring.overlap_saves(DEVICE, ring.Network(1.0, 1e9), 1e6, 64, 8) < 0


def test_a_line_and_a_ring_are_found_again():
    points = [(p, b, DEVICE.computing(p, b)) for p in (1e5, 1e6) for b in (8, 64)]
    found, missed = ring.fitted_device(points)
    assert (found.overhead, found.update, found.row) == pytest.approx((1e-3, 1e-9, 1e-10), rel=1e-6)
    assert missed < 1e-6
    reduces = [(size, NETWORK.all_reduce(size, 2)) for size in (1e3, 1e6, 1e7)]
    network, lost = ring.fitted_network(reduces, 2)
    assert (network.latency, network.bandwidth) == pytest.approx((1e-4, 1e9), rel=1e-6)
    assert lost < 1e-6


def test_a_fit_has_no_time_below_zero():
    """Steps that shrink with the net, as on a noisy machine."""
    found, _ = ring.fitted_device([(1e5, 8, 1.0), (1e6, 8, 0.9), (1e5, 64, 1.1), (1e6, 64, 1.0)])
    assert min(found.overhead, found.update, found.row) >= 0


def test_the_page_shows_what_the_record_says():
    record = json.loads((ROOT / "benchmarks" / "results" / "scaling.json").read_text())
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert page.filled(text, record) == text, "run benchmarks/scaling_page.py"


def test_a_mark_that_is_missing_is_refused():
    with pytest.raises(ValueError, match="marks for"):
        page.filled("<!-- begin measured -->\n<!-- end measured -->", {})

"""How times are taken in turns, and what is made of them."""

import math

import pytest
import torch

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", range(1, 40))
def test_the_interval_between_order_statistics_has_its_coverage(script, n):
    """The median lies between the places i and n - 1 - i with 1 - 2 P(Binomial(n, 1/2) <= i): 95 % or more,
    and less one place further in; from six values on."""
    low, high = script("interleaved").order_statistics(n)

    def coverage(i):
        return 1 - 2 * sum(math.comb(n, k) for k in range(i + 1)) / 2**n

    assert high == n - 1 - low
    assert coverage(low) >= 0.95 or (n < 6 and low == 0)
    assert coverage(low + 1) < 0.95


def test_a_ratio_is_of_times_of_one_round(script):
    """A machine that is three times slower in some rounds does not move it."""
    ratio = script("interleaved").ratio
    slow = [1.0, 3.0, 1.0, 1.0, 3.0, 1.0, 3.0]
    found = ratio([2.0 * s for s in slow], slow)
    assert found == {"ratio": 2.0, "low": 2.0, "high": 2.0}
    values = [1.0, 5.0, 3.0, 2.0, 4.0, 9.0, 7.0, 8.0, 6.0]
    assert ratio(values, [1.0] * 9) == {"ratio": 5.0, "low": 2.0, "high": 8.0}


def test_every_round_has_everyone_and_begins_with_another(script):
    ran = []
    names = ["a", "b", "c"]
    found = script("interleaved").rounds({name: lambda name=name: ran.append(name) for name in names}, 4, CPU)
    assert "".join(ran) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys(names, 4)


def test_the_clocks(script):
    seconds = script("interleaved").seconds

    def work():
        return torch.randn(300, 300) @ torch.randn(300, 300)

    assert seconds(work, CPU) > 0
    assert seconds(work, CPU, "cpu") > 0
    import time

    assert seconds(lambda: time.sleep(0.05), CPU) >= 0.05
    assert seconds(lambda: time.sleep(0.05), CPU, "cpu") < 0.02

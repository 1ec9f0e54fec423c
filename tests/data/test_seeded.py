"""Permutations and bits by a seed."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppvae.data import seeded


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 300), seed=st.integers(0, 2**40))
def test_permutation_holds_every_index_once_and_repeats(n, seed):
    order = seeded.permutation(n, seed)
    assert order.sort().values.tolist() == list(range(n))
    assert torch.equal(order, seeded.permutation(n, seed))


def test_stream_is_the_same_everywhere():
    """Golden values: whoever changes them changes every split and every static binarization."""
    assert seeded.permutation(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    bits = seeded.bernoulli(torch.full((2, 8), 128, dtype=torch.uint8), 0, 255)
    assert bits.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0, 0]]


def test_bits_are_certain_at_the_ends():
    x = torch.tensor([[0, 255] * 5000], dtype=torch.uint8)
    assert torch.equal(seeded.bernoulli(x, 3, 255), torch.tensor([[0, 1] * 5000], dtype=torch.uint8))
    p = torch.tensor([[0.0, 1.0] * 5000])
    assert torch.equal(seeded.bernoulli(p, 3), p.to(torch.uint8))


def test_bits_have_the_right_mean_for_bytes_and_floats():
    """Seed 11, n = 100,000 a level: 4.5 standard errors is 0.0072 at most."""
    for level in (1, 77, 200, 254):
        p = level / 255
        error = 4.5 * (p * (1 - p) / 1e5) ** 0.5
        x = torch.full((1000, 100), level, dtype=torch.uint8)
        assert abs(seeded.bernoulli(x, 11, 255).float().mean().item() - p) < error
        assert abs(seeded.bernoulli(x.double() / 255, 11).float().mean().item() - p) < error


def test_bytes_are_compared_in_whole_numbers():
    """The limit is the number of u in 0 .. 2^32 - 1 with u * steps < v * 2^32."""
    for steps in (1, 16, 255):
        for v in range(steps + 1):
            limit = int(seeded._limits(steps)[v])
            assert (limit - 1) * steps < v * 2**32 <= limit * steps


def test_chunks_do_not_repeat_the_stream():
    bits = seeded.bernoulli(torch.full((2 * seeded.ROWS, 8), 0.5), 5)
    assert not torch.equal(bits[: seeded.ROWS], bits[seeded.ROWS :])

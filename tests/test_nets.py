"""Nets: any leading dimensions, any event shape, pictures of 28 and 32 pixels, and a net of one's own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ppvae.errors import PairError, UsageError
from ppvae.nets import MLP, ConvDecoder, ConvEncoder, Folded, Gaussian, brought

LEADING = [(), (3,), (2, 3), (2, 1, 3)]
PICTURES = [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (2, 17, 30)]


def one_by_one(net, x, event_dim):
    """net, applied to each datum by itself."""
    leading = x.shape[: x.dim() - event_dim]
    rows = x.reshape((math.prod(leading), *x.shape[x.dim() - event_dim :]))
    each = [net(row[None])[0] for row in rows]
    return torch.stack(each).reshape((*leading, *each[0].shape))


def assert_leading(net, in_shape, leading):
    x = torch.randn((*leading, *in_shape), dtype=torch.float64)
    y = net(x)
    assert y.shape == (*leading, *net.out_shape)
    torch.testing.assert_close(y, one_by_one(net, x, len(in_shape)))


shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(in_shape=shapes, out_shape=shapes, leading=shapes, hidden=st.lists(st.integers(1, 5), max_size=2))
def test_mlp_maps_event_shape_to_event_shape(in_shape, out_shape, leading, hidden):
    torch.manual_seed(0)
    assert_leading(MLP(in_shape, out_shape, hidden).double(), in_shape, leading)


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("shape", PICTURES)
def test_convolutions_agree_with_a_loop(shape, leading):
    torch.manual_seed(1)
    encoder = ConvEncoder(shape, 5, width=4).double()
    decoder = ConvDecoder(5, shape, width=4).double()
    assert encoder.in_shape == decoder.out_shape == shape
    assert_leading(encoder, shape, leading)
    assert_leading(decoder, (5,), leading)


def test_every_pixel_reaches_the_code_and_is_reached_by_it():
    torch.manual_seed(2)
    for shape in PICTURES:
        x = torch.randn(shape, requires_grad=True)
        ConvEncoder(shape, 16, width=8)(x).square().sum().backward()
        assert x.grad is not None
        # Halving rounds down four times: at most 15 rows or columns at the far edge are out of reach.
        h, w = (side - side % 2 for side in shape[1:])
        assert (x.grad[:, :h, :w] != 0).float().mean() > 0.6
        decoder, z = ConvDecoder(16, shape, width=8), torch.randn(16)
        assert (decoder(z) != decoder(-z)).float().mean() > 0.9


def test_no_rows_is_a_batch_too():
    assert ConvEncoder((1, 28, 28), 3, width=2)(torch.zeros(0, 1, 28, 28)).shape == (0, 3)
    assert ConvDecoder(3, (1, 28, 28), width=2)(torch.zeros(4, 0, 3)).shape == (4, 0, 1, 28, 28)
    assert MLP((2, 3), 4)(torch.zeros(0, 2, 3)).shape == (0, 4)


@pytest.mark.parametrize("shape", [(784,), (28, 28), (1, 8, 8), (1, 32, 15)])
def test_convolutions_refuse_what_is_no_large_picture(shape):
    with pytest.raises(UsageError, match="sides of 16 or more"):
        ConvEncoder(shape, 3)
    with pytest.raises(UsageError, match="sides of 16 or more"):
        ConvDecoder(3, shape)


@pytest.mark.parametrize("net", [MLP((1, 28, 28), 3), ConvEncoder((1, 28, 28), 3, width=2)])
def test_a_wrong_event_shape_is_named(net):
    with pytest.raises(PairError, match=r"takes \(\.\.\., 1, 28, 28\), not \(5, 28, 28\)"):
        net(torch.zeros(5, 28, 28))


def test_bias_is_what_is_added_to_the_result():
    net, z = MLP(3, (1, 4, 4)), torch.randn(2, 3)
    before, shift = net(z), torch.randn(1, 4, 4)
    with torch.no_grad():
        net.bias.add_(shift)
    torch.testing.assert_close(net(z) - before, shift.expand(2, 1, 4, 4), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("start", [0.1, 1.0])
def test_a_gaussian_starts_at_the_scale_it_is_told(start):
    torch.manual_seed(4)
    loc, scale = Gaussian(MLP(4, 6), (2, 3), start=start)(torch.zeros(1, 4))
    assert torch.allclose(scale.mean().log(), torch.tensor(start).log(), atol=0.3)
    assert Gaussian(MLP(4, 6), 5)(torch.randn(50, 4))[1].median() < 0.2
    assert loc.abs().max() < 1


@pytest.mark.parametrize("size", [1e4, 1e8, 1e30])
def test_gaussian_head_stays_finite(size):
    torch.manual_seed(3)
    head = Gaussian(MLP(4, 6), (2, 3))
    x = (size * torch.randn(5, 4)).requires_grad_()
    loc, scale = head(x)
    assert loc.shape == scale.shape == (5, 2, 3)
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert scale.log().isfinite().all()
    scale.log().sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


class Own(nn.Module):
    """A user's encoder: one batch dimension, any feature shape, BatchNorm and all."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        assert x.dim() == 4
        return self.norm(self.conv(x))


def test_a_net_of_ones_own_is_folded_and_measured():
    net = brought(Own, (1, 6, 6)).double()
    assert isinstance(net, Folded)
    assert net.out_shape == (2, 4, 4)
    assert net.net.training  # the probe's evaluation mode is undone
    assert net.state_dict()["net.norm.num_batches_tracked"] == 0
    assert_leading(net.eval(), (1, 6, 6), (2, 3))


def test_an_instance_is_copied_so_that_two_fits_share_nothing():
    mine = nn.Linear(3, 4)
    first, second = brought(mine, 3, (2, 2)), brought(mine, 3, (2, 2))
    assert first.out_shape == (2, 2)
    with torch.no_grad():
        first.net.weight.zero_()
    assert (second.net.weight == mine.weight).all()
    assert (mine.weight != 0).any()


class Summing(nn.Module):
    def forward(self, x):
        return x.sum()


@pytest.mark.parametrize(
    ("net", "wanted", "error", "text"),
    [
        (nn.Linear(4, 2), None, PairError, "does not take"),
        (nn.Linear(3, 2), 5, PairError, "must return 5"),
        (MLP(3, 2), 5, PairError, r"returns \(2,\), but \(5,\)"),
        (MLP(4, 2), 2, PairError, r"takes \(4,\), but \(3,\)"),
        (Summing(), None, PairError, "one tensor"),
        ("resnet", None, UsageError, "must be an nn.Module"),
        (lambda: 3, None, UsageError, "must be an nn.Module"),
    ],
)
def test_a_net_that_does_not_fit_is_refused(net, wanted, error, text):
    with pytest.raises(error, match=text):
        brought(net, 3, wanted)

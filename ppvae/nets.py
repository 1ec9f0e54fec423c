"""Encoders and decoders: nets from event shape to event shape, under any leading dimensions.

    net(x: (*leading, *in_shape)) -> (*leading, *out_shape)

Leading dimensions are data, particles or anything else to the left; they are never mixed. `MLP`,
`ConvEncoder` and `ConvDecoder` keep this contract.

Bring your own: wherever a pair takes `encoder=` or `decoder=`, any `nn.Module` serves that maps one batch
dimension, (B, *in_shape) -> (B, ...). `Folded` carries the leading dimensions around it, and the shape of its
result is found by one call on zeros. Give the class (made anew at each build) or an instance (copied at each
build, so that two fits never share weights). A BatchNorm in it couples the data of a batch; none is used
here.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.errors import PairError, UsageError

Shape = int | Sequence[int]
Brought = nn.Module | Callable[[], nn.Module]


class MLP(nn.Module):
    """Linear layers with an activation between them: (*leading, *in_shape) -> (*leading, *out_shape).

    Args:
        hidden: widths of the hidden layers; () is one linear map.
        activation: class of the activation, without arguments.

    Raises:
        PairError: the input does not end with `in_shape`.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (400,),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ):
        super().__init__()
        self.in_shape, self.out_shape = as_shape(in_shape), as_shape(out_shape)
        widths = [math.prod(self.in_shape), *hidden, math.prod(self.out_shape)]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.layers = initialized(nn.Sequential(*layers[:-1]))

    @property
    def bias(self) -> Tensor:
        """What is added to the result, of `out_shape`."""
        return self.layers[-1].bias.view(self.out_shape)  # type: ignore

    def forward(self, x: Tensor) -> Tensor:
        leading = leading_shape(x, self.in_shape, "MLP")
        y = self.layers(x.reshape((*leading, math.prod(self.in_shape))))
        return y.reshape((*leading, *self.out_shape))


class ConvEncoder(nn.Module):
    """Four strided convolutions and a linear layer: (*leading, C, H, W) -> (*leading, out_features).

    Kernels of 4 with stride 2 halve each side four times, to 1 from 28 pixels and to 2 from 32. Channels are
    (width, width, 2 width, 2 width), as in Higgins et al. (2017), beta-VAE.

    Raises:
        UsageError: `x_shape` is not (C, H, W) with sides of 16 or more.
        PairError: the input does not end with `x_shape`.
    """

    def __init__(self, x_shape: Sequence[int], out_features: int, width: int = 32):
        super().__init__()
        self.in_shape, self.out_shape = as_shape(x_shape), (out_features,)
        sizes = _halved(self.in_shape, "ConvEncoder")
        channels = [self.in_shape[0], width, width, 2 * width, 2 * width]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        self.layers = initialized(
            nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * math.prod(sizes[-1]), out_features))
        )

    def forward(self, x: Tensor) -> Tensor:
        leading = leading_shape(x, self.in_shape, "ConvEncoder")
        return fold(self.layers, x, leading)


class ConvDecoder(nn.Module):
    """A linear layer and four transposed convolutions: (*leading, in_features) -> (*leading, C, H, W).

    The mirror of `ConvEncoder`.

    Raises:
        UsageError: `out_shape` is not (C, H, W) with sides of 16 or more.
        PairError: the input does not end with `in_features`.
    """

    def __init__(self, in_features: int, out_shape: Sequence[int], width: int = 32):
        super().__init__()
        self.in_shape, self.out_shape = (in_features,), as_shape(out_shape)
        sizes = _halved(self.out_shape, "ConvDecoder")[::-1]
        channels = [2 * width, 2 * width, width, width, self.out_shape[0]]
        layers: list[nn.Module] = [
            nn.Linear(in_features, channels[0] * math.prod(sizes[0])),
            nn.ReLU(),
            nn.Unflatten(-1, (channels[0], *sizes[0])),
        ]
        for i in range(4):
            # 2 s or 2 s + 1 pixels from s: the remainder that halving dropped comes back as output padding.
            odd = (sizes[i + 1][0] - 2 * sizes[i][0], sizes[i + 1][1] - 2 * sizes[i][1])
            into, out = channels[i], channels[i + 1]
            layers.append(nn.ConvTranspose2d(into, out, 4, 2, 1, output_padding=odd))
            layers += [nn.ReLU()] if i < 3 else []
        self.layers = initialized(nn.Sequential(*layers))

    def forward(self, z: Tensor) -> Tensor:
        leading = leading_shape(z, self.in_shape, "ConvDecoder")
        return fold(self.layers, z, leading)


class Folded(nn.Module):
    """Any net of one batch dimension, under any leading dimensions.

    `out_shape` is found by one call on zeros in evaluation mode; where it is given, the net must return that
    many numbers per datum, which are reshaped to it.

    Raises:
        PairError: the net does not take (B, *in_shape), mixes its rows into fewer, or returns another size.
    """

    def __init__(self, net: nn.Module, in_shape: Shape, out_shape: Shape | None = None):
        super().__init__()
        self.net, self.in_shape = net, as_shape(in_shape)
        found = _probe(net, self.in_shape)
        self.out_shape = found if out_shape is None else as_shape(out_shape)
        if math.prod(found) != math.prod(self.out_shape):
            raise PairError(
                f"{type(net).__name__} returns {found} for one datum, {math.prod(found)} numbers: it must "
                f"return {math.prod(self.out_shape)}, as {self.out_shape}"
            )

    def forward(self, x: Tensor) -> Tensor:
        leading = leading_shape(x, self.in_shape, type(self.net).__name__)
        return fold(self.net, x, leading).reshape((*leading, *self.out_shape))


class Gaussian(nn.Module):
    """loc and scale of a diagonal Gaussian from any net, each (*leading, *out_shape).

        h = net(x),   loc = A h + a,   scale = min_scale + softplus(B h + b)

    The softplus grows linearly, where an exponential overflows float32 from 89 on; `min_scale` keeps log
    scale finite where it underflows.

    The scale starts narrow. At a scale near the prior's, codes overlap so much at first that a decoder's
    quickest gain is to ignore them, and many steps go by before it comes back to them.

    Args:
        net: from (*leading, *in_shape) to (*leading, ...); see `brought` for a net of one's own.
        activation: put between the net and the two linear maps; None: the net ends with one of its own.
        start: the scale at which training starts, about.
    """

    def __init__(
        self,
        net: nn.Module,
        out_shape: Shape,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        min_scale: float = 1e-5,
        start: float = 0.1,
    ):
        super().__init__()
        self.net, self.out_shape, self.min_scale = net, as_shape(out_shape), min_scale
        features: tuple[int, ...] = net.out_shape  # type: ignore[assignment]
        self.event_dim = len(features)
        self.activation = nn.Identity() if activation is None else activation()
        # PyTorch's smaller start: the code begins near its prior.
        self.head = nn.Linear(math.prod(features), 2 * math.prod(self.out_shape))
        with torch.no_grad():
            self.head.bias.view(2, -1)[1].fill_(math.log(math.expm1(start)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.activation(self.net(x))
        leading = features.shape[: features.dim() - self.event_dim]
        both = self.head(features.reshape((*leading, self.head.in_features)))
        loc, raw = both.reshape((*leading, 2, *self.out_shape)).unbind(len(leading))
        return loc, self.min_scale + softplus(raw)


def brought(net: Any, in_shape: Shape, out_shape: Shape | None = None) -> Any:
    """A net that a user brings, copied or made anew, which keeps the contract of this file; others come
    `Folded`.

    Raises:
        UsageError: it is neither a module nor something that makes one.
        PairError: it does not lead from `in_shape` to `out_shape` (None: any); see `Folded`.
    """
    made = copy.deepcopy(net) if isinstance(net, nn.Module) else net() if callable(net) else None
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"a net must be an nn.Module, or a class or function without arguments that makes one: {net!r}"
        )
    if not isinstance(made, (MLP, ConvEncoder, ConvDecoder, Folded)):
        return Folded(made, in_shape, out_shape)
    for shape, wanted, what in ((made.in_shape, in_shape, "takes"), (made.out_shape, out_shape, "returns")):
        if wanted is not None and shape != as_shape(wanted):
            raise PairError(f"{type(made).__name__} {what} {shape}, but {as_shape(wanted)} is needed here")
    return made


def initialized(layers: nn.Sequential) -> nn.Sequential:
    """Weights N(0, 2 / fan_in), in the last layer N(0, 1 / fan_in), and biases 0: signals keep their size.

    PyTorch's own start has a sixth of that variance, which slows the deep convolutional decoder down.

    Reference: He, Zhang, Ren & Sun (2015), Delving Deep into Rectifiers, arXiv:1502.01852.
    """
    weighted = [m for m in layers if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    for layer in weighted:
        gain = 1 if layer is weighted[-1] else 2
        fan_in = layer.weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):  # (in, out, 4, 4); at stride 2, 2 x 2 taps reach a pixel
            fan_in = 4 * layer.weight.shape[0]
        nn.init.normal_(layer.weight, std=math.sqrt(gain / fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layers


def fold(net: Callable[[Tensor], Tensor], x: Tensor, leading: torch.Size) -> Tensor:
    """net on x with its leading dimensions folded into one, and unfolded after."""
    y = net(x.reshape((math.prod(leading), *x.shape[len(leading) :])))
    return y.reshape((*leading, *y.shape[1:]))


def leading_shape(x: Tensor, event_shape: tuple[int, ...], who: str) -> torch.Size:
    """The dimensions of x to the left of its event shape.

    Raises:
        PairError: x does not end with `event_shape`.
    """
    split = x.dim() - len(event_shape)
    if split < 0 or tuple(x.shape[split:]) != event_shape:
        wanted = ", ".join(["...", *map(str, event_shape)])
        raise PairError(f"{who} takes ({wanted}), not {tuple(x.shape)}: build it with the shape of one datum")
    return x.shape[:split]


def as_shape(shape: Shape) -> tuple[int, ...]:
    """3 -> (3,), [1, 28, 28] -> (1, 28, 28)."""
    return (int(shape),) if isinstance(shape, int) else tuple(int(size) for size in shape)


def _halved(shape: tuple[int, ...], who: str) -> list[tuple[int, int]]:
    """(H, W) and its four halvings, rounded down."""
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise UsageError(
            f"{who} takes pictures (C, H, W) with sides of 16 or more, not {shape}: pad them, or use an MLP"
        )
    return [(shape[1] >> i, shape[2] >> i) for i in range(5)]


def _probe(net: nn.Module, in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The event shape of the net's result, by one call on two rows of zeros."""
    like = next(net.parameters(), torch.zeros(()))
    modes = {module: module.training for module in net.modules()}
    try:
        net.eval()
        with torch.no_grad():
            y = net(like.new_zeros((2, *in_shape)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise PairError(f"{type(net).__name__} does not take (B, {in_shape}): {reason}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(y, Tensor) or y.dim() == 0 or len(y) != 2:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise PairError(f"{type(net).__name__} returns {got} for 2 data: it must return one tensor, (2, ...)")
    return tuple(y.shape[1:])

"""Likelihoods p(x | z) by one word, and the distributions that Pyro lacks.

    word                   x                 numbers per dimension    p(x_d | z)
    bernoulli              0 or 1            1: logits                Bernoulli(logits)
    continuous_bernoulli   [0, 1]            1: logits                ContinuousBernoulli(logits), a density
    gaussian               real              2: loc, raw scale        N(loc, scale^2), a density
    discretized_logistic   k / 255           2: loc, raw scale        DiscretizedLogistic(loc, scale, 256)

Dimensions are independent given z. A density has no bits per dimension that could be compared with a
probability's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid, softplus

from ppvae.errors import DataError, UsageError, nearest


class ContinuousBernoulli(TorchDistribution):
    """The density on [0, 1] proportional to exp(logits * x), exact for every finite logits.

        log p(x) = logits (x - 1/2) - log(sinh(h) / h),   h = logits / 2

    Torch's own clamps the probabilities, so that in float32 it is not normalized beyond |logits| = 16.

    Reference: Loaiza-Ganem & Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845.
    Not to be confused with a Bernoulli's log-probability at grey values, which is not normalized.
    """

    arg_constraints: ClassVar = {"logits": constraints.real}  # type: ignore
    support = constraints.unit_interval  # type: ignore
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None):
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new: Any = self._get_checked_instance(ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.logits * (value - 0.5) - _log_sinhc(self.logits / 2)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - exp(-logits)) - 1 / logits."""
        small, safe = _near_zero(self.logits)
        exact = 0.5 / torch.tanh(safe / 2) + 0.5 - 1 / safe
        return torch.where(small, 0.5 + self.logits / 12, exact)

    @property
    def variance(self) -> Tensor:
        """1 / logits^2 - 1 / (2 sinh(logits / 2))^2."""
        # Two terms that almost cancel near 0: the series serves further out than for the mean.
        small, safe = _near_zero(self.logits, 0.3)
        e = (-safe.abs()).exp()
        exact = 1 / safe**2 - e / (1 - e) ** 2
        return torch.where(small, 1 / 12 - self.logits**2 / 240 + self.logits**4 / 6048, exact)

    def icdf(self, value: Tensor) -> Tensor:
        """log(1 + u (exp(logits) - 1)) / logits, written for -|logits| so that nothing overflows."""
        small, safe = _near_zero(self.logits)
        u = torch.where(self.logits > 0, 1 - value, value)
        magnitude = safe.abs()
        x = -torch.log1p(u * torch.expm1(-magnitude)) / magnitude
        x = torch.where(self.logits > 0, 1 - x, x)
        return torch.where(small, value, x).clamp(0, 1)

    def rsample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))


def _near_zero(x: Tensor, within: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Where |x| is small, and x with those replaced, so that neither branch of a `where` has a NaN
    gradient."""
    small = x.abs() < within
    return small, torch.where(small, torch.ones_like(x), x)


def _log_sinhc(h: Tensor) -> Tensor:
    """log(sinh(h) / h), an even function; h^2 / 6 near 0 and |h| - log(2 |h|) far out."""
    small, safe = _near_zero(h, 0.1)
    far = safe.abs()
    exact = far + torch.log(-torch.expm1(-2 * far)) - torch.log(2 * far)
    square = torch.where(small, h, torch.zeros_like(h)) ** 2
    return torch.where(small, square / 6 - square**2 / 180 + square**3 / 2835, exact)


class OneHotCategorical(dist.OneHotCategorical):
    """A choice among C as a one-hot vector, drawn without waiting for the device: the largest of
    logits + Gumbel noise.

    Torch's own draws an index by `multinomial`, and asks whether it is below C before it makes the vector.
    """

    def sample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            exponential = torch.empty(
                shape, dtype=self.logits.dtype, device=self.logits.device
            ).exponential_()
            largest = (self.logits - exponential.log()).argmax(-1, keepdim=True)
            return torch.zeros_like(exponential).scatter_(-1, largest, 1.0)


class _Grid(constraints.Constraint):
    """0, 1 / (levels - 1), ..., 1, within a thousandth of a step."""

    is_discrete = True

    def __init__(self, levels: int):
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.levels - 1)
        return ((steps - steps.round()).abs() <= 1e-3) & (steps > -0.5) & (steps < self.levels - 0.5)

    def __repr__(self) -> str:
        return f"multiples of 1/{self.levels - 1} in [0, 1]"


class DiscretizedLogistic(TorchDistribution):
    """A logistic variable rounded to one of `levels` equidistant values in [0, 1]; the edge bins take the
    tails.

        P(k / (L-1)) = F(k + 1/2) - F(k - 1/2),   F(t) = sigmoid((t / (L-1) - loc) / scale),   F(-1/2) = 0,
        F(L - 1/2) = 1

    so that it sums to one over the L values. Its log is exact in the far tails too, for with a > b
    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).

    Args:
        loc, scale: in units of x, that is with the whole range of length 1.

    Reference: Salimans, Karpathy, Chen & Kingma (2017), PixelCNN++, arXiv:1701.05517.
    Not to be confused with a logistic density at dequantized values, which bounds it from below.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}  # type: ignore

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None):
        if levels < 2:
            raise UsageError(f"levels={levels}: at least 2 values are needed")
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return _Grid(self.levels)

    def expand(self, batch_shape, _instance=None):
        new: Any = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.loc, new.scale, new.levels = (
            self.loc.expand(batch_shape),
            self.scale.expand(batch_shape),
            self.levels,
        )
        super(DiscretizedLogistic, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _standard(self, edge: Tensor | float) -> Tensor:
        """(edge - loc) / scale of a bin's edge, counted in steps of the grid, where half-integers are
        exact."""
        return (edge - self.loc * (self.levels - 1)) / (self.scale * (self.levels - 1))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k = (value * (self.levels - 1)).round()
        below_top, above_bottom = k < self.levels - 1, k > 0
        zero = value.new_zeros(())
        log_up = torch.where(below_top, logsigmoid(self._standard(k + 0.5)), zero)
        log_down = torch.where(above_bottom, logsigmoid(-self._standard(k - 0.5)), zero)
        inside = torch.log(-torch.expm1(-1 / (self.scale * (self.levels - 1))))
        return log_up + log_down + torch.where(below_top & above_bottom, inside, zero)

    def sample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            k = ((self.loc + self.scale * torch.logit(u)) * (self.levels - 1)).round()
            return k.clamp(0, self.levels - 1) / (self.levels - 1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """E k and E k^2 by their tail sums: sum_k P(K >= k) and sum_k (2 k - 1) P(K >= k)."""
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.loc)
        for k in range(1, self.levels):  # one at a time: a picture has 784 of these
            tail = torch.sigmoid(-self._standard(k - 0.5))
            first, second = first + tail, second + (2 * k - 1) * tail
        return first, second

    @property
    def mean(self) -> Tensor:
        return self._moments()[0] / (self.levels - 1)

    @property
    def variance(self) -> Tensor:
        first, second = self._moments()
        return (second - first**2).clamp_min(0) / (self.levels - 1) ** 2


@dataclass(frozen=True)
class Kind:
    """What one word means."""

    parameters: int
    """Numbers that the decoder returns for each dimension of x."""
    make: Callable[..., TorchDistributionMixin]
    """From those numbers, each of (*leading, *x_shape), to a distribution of that batch shape."""
    holds: Callable[[Tensor], Tensor]
    """Elementwise: is this a possible value of x?"""
    refusal: str
    """What is wrong where it does not hold, and what to do about it."""


def _gaussian(loc: Tensor, raw: Tensor) -> TorchDistributionMixin:
    # Pixels that never change would drive the density to infinity: the floor of the scale is one grey level.
    return dist.Normal(loc, 1 / 255 + softplus(raw))


def _logistic(raw_loc: Tensor, raw_scale: Tensor) -> TorchDistributionMixin:
    # Zeros stand for the middle of the range, 0.13 wide; the floor is an eighth of a grey level.
    return DiscretizedLogistic(0.5 + raw_loc, 1 / 2040 + softplus(raw_scale - 2))


KINDS: dict[str, Kind] = {
    "bernoulli": Kind(
        1,
        lambda logits: dist.Bernoulli(logits=logits),
        lambda x: (x == 0) | (x == 1),
        "grey pixels under a Bernoulli are no likelihood: binarize the data (--binarization dynamic) or use "
        "likelihood='continuous_bernoulli'",
    ),
    "continuous_bernoulli": Kind(
        1,
        ContinuousBernoulli,
        lambda x: (x >= 0) & (x <= 1),
        "a continuous Bernoulli lives on [0, 1]: scale the data to it, or use likelihood='gaussian'",
    ),
    "gaussian": Kind(
        2,
        _gaussian,
        lambda x: x.isfinite(),
        "a Gaussian takes finite reals: remove NaN and infinities, or mark them missing with a mask",
    ),
    "discretized_logistic": Kind(
        2,
        _logistic,
        _Grid(256).check,
        "a discretized logistic takes bytes k/255: give uint8 pictures (--binarization none), or use "
        "likelihood='continuous_bernoulli'",
    ),
}


class Likelihood:
    """p(x | z) = prod_d p(x_d | raw_d(z)) over the dimensions of one datum.

        raw = decoder(z)                   (*leading, *raw_shape)
        likelihood(raw)                    batch shape leading, event shape x_shape

    Args:
        word: one of `KINDS`.
        x_shape: shape of one datum.

    Raises:
        UsageError: no such word, with the nearest one.
    """

    def __init__(self, word: str, x_shape: tuple[int, ...]):
        if word not in KINDS:
            raise UsageError(
                f"no likelihood {word!r}{nearest(word, KINDS) or '.'} There are: {', '.join(KINDS)}"
            )
        self.word, self.x_shape = word, tuple(x_shape)
        self.parameters = KINDS[word].parameters

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """What the decoder returns for one datum: the first dimension of x_shape times `parameters`."""
        return (self.parameters * self.x_shape[0], *self.x_shape[1:])

    def __call__(
        self, raw: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> TorchDistributionMixin:
        """The distribution of x whose parameters are `raw`.

        Args:
            x: the observed value, which is checked while Pyro validates distributions; None where it is
                drawn.
            mask: (*leading, *x_shape), False where a value is missing and does not count.

        Raises:
            DataError: x is nothing that this likelihood can have produced.
        """
        if x is not None and Distribution._validate_args:
            self.check(x)
        kind = KINDS[self.word]
        each: Any = kind.make(*raw.chunk(kind.parameters, dim=-len(self.x_shape)))
        if mask is not None:
            each = each.mask(mask)
        return each.to_event(len(self.x_shape))

    def check(self, x: Tensor) -> None:
        """Raises DataError, with what to do, unless every number of x is a possible value. Reads from the
        device."""
        if not bool(KINDS[self.word].holds(x).all()):
            if self.word in ("bernoulli", "discretized_logistic") and bool(((x < 0) | (x > 1)).any()):
                raise DataError(
                    f"values outside [0, 1] have no probability under a {self.word} likelihood: "
                    "use likelihood=gaussian"
                )
            raise DataError(KINDS[self.word].refusal)

    def start(self, x_mean: Tensor) -> Tensor:
        """The raw output, of `raw_shape`, at which a Bernoulli of this mean starts: its log-odds.

        The mean is kept within [0.001, 0.999], as in Burda, Grosse & Salakhutdinov (2016).
        """
        if self.word != "bernoulli":
            raise UsageError(f"the {self.word} likelihood has no start at a mean: leave x_mean out")
        return torch.logit(x_mean.clamp(1e-3, 1 - 1e-3)).reshape(self.raw_shape)

    def __repr__(self) -> str:
        return f"Likelihood({self.word!r}, {self.x_shape})"

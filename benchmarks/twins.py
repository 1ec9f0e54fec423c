"""The losses of timed pairs as one writes them by hand: plain torch, no Pyro, nothing of this library.

A twin has the parameters of its pair and draws the same noise under the same seed, so that both have the same
loss and the same gradients (`tests/benchmarks/test_twins.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
Objective = Callable[["Twin", Tensor], Tensor]


class Twin(nn.Module):
    """q(z | x) = N(loc(x), scale(x)^2) by `encoder` and `head`, p(x | z) = Bernoulli by `decoder`.

    Args:
        shape: of one picture, as the encoder takes it.
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear, decoder: nn.Module, shape: Sequence[int]):
        super().__init__()
        self.encoder, self.head, self.decoder, self.shape = encoder, head, decoder, tuple(shape)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(loc, scale), each (B, latent)."""
        loc, raw = self.head(self.encoder(x.reshape(-1, *self.shape))).chunk(2, -1)
        return loc, 1e-5 + softplus(raw)

    def log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x | z): (..., B, latent), (B, 1, 28, 28) -> (..., B)."""
        logits = self.decoder(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)
        x = x.reshape(len(x), -1).expand_as(logits)
        return -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


class RecurrentTwin(Twin):
    """The twin of `sequences.py`: `decoder` is made of start, rnn and out; `encoder` is a GRU."""

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self.encoder(x.reshape(-1, *self.shape))
        loc, raw = self.head(states[:, -1]).chunk(2, -1)
        return loc, 1e-5 + softplus(raw)

    def log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        start, rnn, out = self.decoder.children()
        rows = x.reshape(-1, *self.shape)
        before = torch.cat([torch.zeros_like(rows[:, :1]), rows[:, :-1]], 1)
        logits = out(rnn(before, start(z).tanh().unsqueeze(0))[0])
        return -binary_cross_entropy_with_logits(logits, rows, reduction="none").sum((-1, -2))


def normal(z: Tensor, loc: Tensor | float, scale: Tensor) -> Tensor:
    """log N(z; loc, scale^2), summed over the last dimension."""
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - HALF_LOG_TAU).sum(-1)


def standard_normal(z: Tensor) -> Tensor:
    return (-0.5 * z**2 - HALF_LOG_TAU).sum(-1)


def elbo(twin: Twin, x: Tensor) -> Tensor:
    """-E_q[log p(x, z) - log q(z | x)] by one draw, a mean over the batch."""
    loc, scale = twin.posterior(x)
    z = loc + scale * torch.randn_like(loc)
    log_weight = twin.log_likelihood(z, x) + standard_normal(z) - normal(z, loc, scale)
    return -log_weight.mean()


def iwae(particles: int) -> Objective:
    """-log (1/K) sum_k w_k, a mean over the batch."""

    def loss(twin: Twin, x: Tensor) -> Tensor:
        loc, scale = twin.posterior(x)
        z = loc + scale * torch.randn(particles, *loc.shape, dtype=loc.dtype, device=loc.device)
        log_weight = twin.log_likelihood(z, x) + standard_normal(z) - normal(z, loc, scale)
        return -(log_weight.logsumexp(0) - math.log(particles)).mean()

    return loss


def dreg(particles: int) -> Objective:
    """The same bound with doubly reparameterized gradients: a hook weighs what flows to the guide anew."""

    def loss(twin: Twin, x: Tensor) -> Tensor:
        loc, scale = twin.posterior(x)
        z = loc + scale * torch.randn(particles, *loc.shape, dtype=loc.dtype, device=loc.device)
        log_q = normal(z, loc.detach(), scale.detach())
        log_weight = twin.log_likelihood(z, x) + standard_normal(z) - log_q
        weight = log_weight.detach().softmax(0)
        if z.requires_grad:
            z.register_hook(lambda slope: weight.unsqueeze(-1) * slope)
        bound = (log_weight.detach().logsumexp(0) - math.log(particles)).mean()
        climbed = (weight * log_weight).sum(0).mean()
        return -(bound + climbed - climbed.detach())

    return loss


def mlp_twin(hidden: Sequence[int], latent: int) -> Twin:
    """Of `vae`: 784 - hidden - 2 latent, latent - hidden - 784, with ReLUs."""
    encoder = [784, *hidden]
    decoder = [latent, *hidden, 784]
    return Twin(
        nn.Sequential(*_layers(encoder), nn.ReLU()),
        nn.Linear(hidden[-1], 2 * latent),
        nn.Sequential(*_layers(decoder)),
        (784,),
    )


def _layers(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


def conv_twin(latent: int = 32, width: int = 32, features: int = 256) -> Twin:
    """Of `conv_vae`, for 28 by 28 pixels."""
    wide = 2 * width
    encoder = nn.Sequential(
        *(nn.Conv2d(1, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 4, 2, 1), nn.ReLU()),
        *(nn.Conv2d(width, wide, 4, 2, 1), nn.ReLU(), nn.Conv2d(wide, wide, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(wide, features), nn.ReLU()),
    )
    decoder = nn.Sequential(
        *(nn.Linear(latent, wide), nn.ReLU(), nn.Unflatten(-1, (wide, 1, 1))),
        *(nn.ConvTranspose2d(wide, wide, 4, 2, 1, output_padding=1), nn.ReLU()),
        *(nn.ConvTranspose2d(wide, width, 4, 2, 1, output_padding=1), nn.ReLU()),
        *(nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU()),
        nn.ConvTranspose2d(width, 1, 4, 2, 1),
    )
    return Twin(encoder, nn.Linear(features, 2 * latent), decoder, (1, 28, 28))


def recurrent_twin(latent: int = 16, hidden: int = 64, steps: int = 14, width: int = 56) -> RecurrentTwin:
    """Of `sequences.py`."""
    decoder = nn.Sequential(
        nn.Linear(latent, hidden), nn.GRU(width, hidden, batch_first=True), nn.Linear(hidden, width)
    )
    encoder = nn.GRU(width, hidden, batch_first=True)
    return RecurrentTwin(encoder, nn.Linear(hidden, 2 * latent), decoder, (steps, width))


def take_over(twin: Twin, model: nn.Module, guide: nn.Module) -> None:
    """Give the twin copies of a pair's parameters; both list them in the order guide, model."""
    _copy(twin.parameters(), [*guide.parameters(), *model.parameters()])


def give_back(twin: Twin, model: nn.Module, guide: nn.Module) -> None:
    """Give the pair copies of the twin's parameters."""
    _copy([*guide.parameters(), *model.parameters()], twin.parameters())


def _copy(to: Iterable[Tensor], source: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for mine, other in zip(to, source, strict=True):
            assert mine.shape == other.shape, f"{tuple(mine.shape)} is no {tuple(other.shape)}"
            mine.copy_(other)

"""Linear-Gaussian pairs far from their start, with their optimum and their tempered posteriors in closed
form."""

import math
from typing import Any

import torch
from torch import Tensor

from ppvae.build import build
from ppvae.built import Built
from ppvae.registry import find

SIZE, LATENT, SCALE = 6, 3, 0.7


def linear(name: str, seed: int = 11) -> Any:
    """The pair `name` in float64, with correlated codes, of which the posterior's standard deviations are
    between 0.2 and 0.9."""
    generator = torch.Generator().manual_seed(seed)
    built = build(find(name), None, seed=0, x_shape=(SIZE,), latent=LATENT).double()
    with torch.no_grad():
        built.model.weight.copy_(torch.randn(SIZE, LATENT, generator=generator, dtype=torch.float64))
        built.model.mean.copy_(torch.randn(SIZE, generator=generator, dtype=torch.float64))
        built.model.raw_scale.fill_(math.log(math.expm1(SCALE)))
    return built


def drawn(built: Built, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Data of the model itself."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return {"x": built.run_model(n=rows)}


def evidence(built: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return built.pair.evidence(built.model, batch)


def at_best(built: Any) -> float:
    """Sets a guide to its optimum; the gap that is left, in nats per datum."""
    model = built.model
    precision = model.precision().detach()
    gain = torch.linalg.solve(precision, model.weight.T) / model.scale**2
    with torch.no_grad():
        built.guide.encoder.weight.copy_(gain)
        if built.guide.encoder.bias is not None:
            built.guide.encoder.bias.copy_(-gain @ model.mean)
        if hasattr(built.guide, "scale_tril"):
            built.guide.scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision))
            return 0.0
        built.guide.scale = precision.diagonal().rsqrt()
    return float(0.5 * (precision.diagonal().log().sum() - precision.logdet()))


def tempered(built: Any, x: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(mean (B, D), covariance (D, D), precision) of p(z) p(x | z)^beta, normalized."""
    model = built.model
    with torch.no_grad():
        eye = torch.eye(LATENT, dtype=torch.float64)
        precision = eye + beta * model.weight.T @ model.weight / model.scale**2
        covariance = torch.linalg.inv(precision)
        mean = beta * (x - model.mean) @ model.weight / model.scale**2 @ covariance
    return mean, covariance, precision

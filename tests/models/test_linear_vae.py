"""The linear VAE's law: its best ELBO is the maximum of pPCA's likelihood (Lucas et al. 2019; Tipping &
Bishop 1999)."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae.build import build
from ppvae.estimators import ELBO, AnalyticKL
from ppvae.models.ppca import evidence
from ppvae.registry import find

SIZE, LATENT, ROWS = 5, 2, 200


def toy() -> Tensor:
    """Correlated rows with a mean, (ROWS, SIZE), float64, seed 21."""
    generator = torch.Generator().manual_seed(21)
    factors = torch.randn(ROWS, SIZE, generator=generator, dtype=torch.float64)
    mixing = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    return factors @ mixing + torch.arange(SIZE, dtype=torch.float64)


def principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues downwards, eigenvectors, discarded variance, and the largest mean log-likelihood in nats
    per datum."""
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    values, vectors = values.flip(0), vectors.flip(1)
    noise = values[LATENT:].mean()
    kept = values[:LATENT].log().sum() + (SIZE - LATENT) * noise.log()
    return values, vectors, noise, -0.5 * (SIZE * math.log(2 * math.pi) + kept + SIZE)


def made() -> Any:
    return build(find("linear_vae"), None, seed=1, x_shape=(SIZE,), latent=LATENT).double()


def at_maximum(x: Tensor) -> tuple[Any, Tensor]:
    """The pair at the closed-form optimum: W = U (L - s^2)^(1/2), so that W'W is diagonal."""
    values, vectors, noise, best = principal(x)
    built = made()
    with torch.no_grad():
        model, guide = built.model, built.guide
        model.weight.copy_(vectors[:, :LATENT] * (values[:LATENT] - noise).sqrt())
        model.mean.copy_(x.mean(0))
        model.raw_scale.copy_(torch.expm1(noise.sqrt()).log())
        precision = model.precision()
        guide.encoder.weight.copy_(torch.linalg.solve(precision, model.weight.T) / model.scale**2)
        guide.scale = precision.diagonal().rsqrt()
    return built, best


def test_closed_form_optimum_has_no_gap():
    x = toy()
    built, best = at_maximum(x)
    log_p = evidence(built.model, {"x": x})
    assert (log_p.mean() - best).abs() < 1e-9
    # The gap is 0, so that every draw of the guide has the evidence as its weight.
    log_weight = built.score({"x": x}, 3).log_weight
    torch.testing.assert_close(log_weight, log_p.expand(3, ROWS), rtol=0, atol=1e-9)


def test_closed_form_optimum_is_stationary():
    x = toy()
    built, _ = at_maximum(x)
    parameters = list(built.parameters())
    losses = (ELBO(50).estimate(built, {"x": x}).losses["all"] for _ in range(100))
    each = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]) for loss in losses]
    gradients = torch.stack(each)
    # 28 numbers, each within 4.5 of its standard errors around 0.
    error = gradients.std(0) / 10
    assert (gradients.mean(0).abs() <= 4.5 * error + 1e-9).all()
    assert error.max() < 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_training_reaches_the_maximum_of_the_likelihood(seed):
    x = toy()
    *_, best = principal(x)
    built = made()
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(built.parameters(), lr=0.1)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    estimator = AnalyticKL(1)
    for _ in range(600):
        optimizer.zero_grad()
        estimator.estimate(built, {"x": x}).losses["all"].backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        losses = [estimator.estimate(built, {"x": x}).losses["all"] for _ in range(500)]
        log_p = evidence(built.model, {"x": x}).mean()
    bound = -torch.stack(losses)
    error = bound.std() / math.sqrt(500)
    assert best - 0.05 < log_p <= best + 1e-9
    assert best - 0.05 < bound.mean() < best + 3 * error
    # It has found the principal axes themselves, and not only their plane.
    gram = (built.model.weight.T @ built.model.weight).detach()
    assert gram.fill_diagonal_(0).abs().max() < 0.1 * principal(x)[0][0]


def test_guide_is_centred_on_the_models_mean():
    built = made()
    with torch.no_grad():
        built.model.mean.normal_()
    q = built.score({"x": built.model.mean.detach()[None].repeat(2, 1)}, 1).sites["z"].q
    assert (q.mean == 0).all()
    assert set(built.groups()["guide"]) == {"guide.encoder.weight", "guide.scale_unconstrained"}

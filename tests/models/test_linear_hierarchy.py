"""The linear-Gaussian hierarchy against one dense Gaussian over z2, z1 and x, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ppvae.build import build
from ppvae.errors import PairError, UsageError
from ppvae.estimators import IWAE, AnalyticKL
from ppvae.pair import posterior_draws
from ppvae.registry import find

ROWS = 6


def made(x_shape=(5,), latent=(3, 2)) -> tuple[Any, dict[str, Tensor]]:
    """The pair with every parameter drawn anew (seed 61) and data that its own model draws."""
    built = build(find("linear_hierarchy"), None, seed=0, x_shape=x_shape, latent=latent).double()
    torch.manual_seed(61)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.5 * torch.randn_like(p))
        return built, {"x": built.run_model(n=ROWS)}


def dense(model) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (z2, z1, x), from the noise that each layer adds to a linear map of the one
    before."""
    (middle, top), size = model.latent, math.prod(model.x_shape)
    total = top + middle + size
    a, w = model.top_weight.detach(), model.weight.detach()
    # (z2, z1, x) = offset + maps (z2, z1, x) + noise: solved by (I - maps)^-1.
    maps = torch.zeros(total, total, dtype=torch.float64)
    maps[top : top + middle, :top], maps[top + middle :, top : top + middle] = a, w
    scales = [1.0, float(model.top_scale.detach()), float(model.scale.detach())]
    noise = torch.cat(
        [
            torch.full((k,), s**2, dtype=torch.float64)
            for k, s in zip((top, middle, size), scales, strict=True)
        ]
    )
    offset = torch.cat([torch.zeros(top), model.top_mean.detach(), model.mean.detach()])
    out = torch.linalg.inv(torch.eye(total, dtype=torch.float64) - maps)
    return out @ offset, out @ torch.diag(noise) @ out.T


def conditioned(mean: Tensor, covariance: Tensor, known: int, x: Tensor) -> MultivariateNormal:
    """The law of what comes before the last `known` coordinates, given these."""
    cut = len(mean) - known
    gain = torch.linalg.solve(covariance[cut:, cut:], covariance[cut:, :cut]).T
    loc = mean[:cut] + (x - mean[cut:]) @ gain.T
    left = covariance[:cut, :cut] - gain @ covariance[cut:, :cut]
    return MultivariateNormal(loc, (left + left.T) / 2)


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("x_shape", [(5,), (1, 2, 3)])
def test_evidence_is_that_of_a_dense_gaussian(x_shape):
    built, batch = made(x_shape)
    mean, covariance = dense(built.model)
    cut = sum(built.model.latent)
    wanted = MultivariateNormal(mean[cut:], covariance[cut:, cut:]).log_prob(batch["x"].flatten(1))
    close(built.pair.evidence(built.model, batch).detach(), wanted)


def test_posterior_of_z1_is_that_of_a_dense_gaussian():
    built, batch = made()
    wanted = conditioned(*dense(built.model), 5, batch["x"])
    with torch.no_grad():
        found = built.pair.posterior(built.model, batch)["z1"]
    close(found.loc, wanted.loc[:, 2:])
    close(found.covariance_matrix, wanted.covariance_matrix[:, 2:, 2:])


def test_posterior_is_bayes_rule():
    """log p(x, z1, z2) - log p(z1 | x) - log p(z2 | z1) = log p(x) at any z1, z2 whatever."""
    built, batch = made()
    model = built.model
    laws = built.pair.posterior(model, batch)
    z1, z2 = 3 * torch.randn(ROWS, 3, dtype=torch.float64), 3 * torch.randn(ROWS, 2, dtype=torch.float64)
    mean, covariance = dense(model)
    log_joint = MultivariateNormal(mean, covariance).log_prob(torch.cat([z2, z1, batch["x"]], -1))
    left = log_joint - laws["z1"].log_prob(z1) - laws["z2"]({"z1": z1}).log_prob(z2)
    close(left.detach(), built.pair.evidence(model, batch).detach())


def test_draws_of_the_posterior_know_of_each_other():
    """100,000 joint draws (seed 61): mean and covariance of (z2, z1) within 5 standard errors, the covariance
    between the layers among them."""
    built, batch = made()
    with torch.no_grad():
        drawn = posterior_draws(built.pair.posterior(built.model, batch), 100_000)
    assert [value.shape for value in drawn.values()] == [(100_000, ROWS, 3), (100_000, ROWS, 2)]
    wanted = conditioned(*dense(built.model), 5, batch["x"])
    z = torch.cat([drawn["z2"], drawn["z1"]], -1)
    covariance = wanted.covariance_matrix[0]  # one for all data
    scale = covariance.diagonal().sqrt()
    assert ((z.mean(0) - wanted.loc).abs() < 5 * scale / 100_000**0.5).all()
    found = torch.stack([z[:, row].T.cov() for row in range(ROWS)])
    error = (found - covariance) / (scale[:, None] * scale)
    assert error.abs().max() < 5 * (2 / 100_000) ** 0.5
    assert (covariance[:2, 2:] / (scale[:2, None] * scale[2:])).abs().max() > 0.1


def joint_q(guide, x: Tensor) -> MultivariateNormal:
    """q(z2, z1 | x) as one dense Gaussian, by the same way as the model's."""
    u, offset = guide.up.weight.detach(), guide.up.bias.detach()
    s1, s2 = (t @ t.T for t in (guide.scale_tril.detach(), guide.up_scale_tril.detach()))
    loc = guide.encoder(x).detach()
    lower = torch.cat([u @ s1, s1])
    covariance = torch.cat([torch.cat([u @ s1 @ u.T + s2, s1 @ u.T]), lower], 1)
    return MultivariateNormal(torch.cat([loc @ u.T + offset, loc], -1), covariance)


def test_evidence_is_elbo_plus_kl():
    """Exact to 1e-9 at parameters drawn anyhow, and far from tight."""
    built, batch = made()
    gap = kl_divergence(joint_q(built.guide, batch["x"]), conditioned(*dense(built.model), 5, batch["x"]))
    elbo = built.pair.elbo(built.model, built.guide, batch).detach()
    assert gap.min() > 1
    close(elbo + gap, built.pair.evidence(built.model, batch).detach())


def at_posterior(built) -> None:
    """Sets the guide to the exact posterior."""
    model, guide = built.model, built.guide
    with torch.no_grad():
        zero = torch.zeros(1, *model.x_shape, dtype=torch.float64)
        up = model.posterior_z2(torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()).loc
        below = model.posterior_z1(zero)
        basis = torch.eye(math.prod(model.x_shape), dtype=torch.float64).unflatten(-1, model.x_shape)
        guide.encoder.bias.copy_(below.loc[0])
        guide.encoder.weight.copy_((model.posterior_z1(basis).loc - below.loc).T)
        guide.scale_tril = below.scale_tril[0]
        guide.up.weight.copy_((up[1:] - up[0]).T)
        guide.up.bias.copy_(up[0])
        guide.up_scale_tril = model.posterior_z2(below.loc).scale_tril[0]


@pytest.mark.parametrize("x_shape", [(5,), (1, 2, 3)])
def test_the_guide_contains_the_posterior(x_shape):
    built, batch = made(x_shape)
    at_posterior(built)
    wanted = built.pair.evidence(built.model, batch)
    close(built.score(batch, 3).log_weight, wanted.expand(3, ROWS))
    close(built.pair.elbo(built.model, built.guide, batch), wanted)
    # The best of all guides has no gradient left.
    bound = built.pair.elbo(built.model, built.guide, batch).mean()
    gradients = torch.autograd.grad(bound, list(built.guide.parameters()))
    assert max(g.abs().max() for g in gradients) < 1e-9


def test_what_does_not_suit_two_layers_is_refused():
    built, batch = made()
    with pytest.raises(PairError, match="one order of the latents"):
        AnalyticKL().estimate(built, batch)
    assert IWAE(3).estimate(built, batch).bound is not None
    with pytest.raises(UsageError, match="sizes of z1 and z2"):
        made(latent=(3,))

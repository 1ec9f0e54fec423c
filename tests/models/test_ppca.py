"""Probabilistic PCA and its three guides against what is known in closed form, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae.build import build
from ppvae.estimators import ELBO, IWAE, AnalyticKL
from ppvae.models.ppca import PPCA, evidence, posterior
from ppvae.registry import find

ROWS = 40


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(11)


def made(name: str, x_shape=(6,), latent=3) -> Any:
    """The pair `name` with a model far from its start: correlated codes, noise of 0.7."""
    built = build(find(name), None, seed=0, x_shape=x_shape, latent=latent).double()
    with torch.no_grad():
        built.model.weight.copy_(torch.randn(math.prod(x_shape), latent, dtype=torch.float64))
        built.model.mean.normal_()
        built.model.raw_scale.fill_(math.log(math.expm1(0.7)))
    return built


def data(built) -> dict[str, Tensor]:
    with torch.no_grad():
        return {"x": built.run_model(n=ROWS)}


def at_best(built) -> Tensor:
    """Sets a mean-field guide to its optimum; the gap left, in nats per datum."""
    model: PPCA = built.model
    precision = model.precision()
    gain = torch.linalg.solve(precision, model.weight.T) / model.scale**2
    with torch.no_grad():
        built.guide.encoder.weight.copy_(gain)
        if built.guide.encoder.bias is not None:
            built.guide.encoder.bias.copy_(-gain @ model.mean)
        built.guide.scale = precision.diagonal().rsqrt().detach()
    return 0.5 * (precision.diagonal().log().sum() - precision.logdet())


@pytest.mark.parametrize("x_shape", [(6,), (1, 2, 3)])
def test_evidence_is_that_of_a_dense_gaussian(x_shape):
    built = made("ppca", x_shape)
    model, batch = built.model, data(built)
    covariance = model.weight @ model.weight.T + model.scale**2 * torch.eye(6, dtype=torch.float64)
    dense = torch.distributions.MultivariateNormal(model.mean, covariance)
    torch.testing.assert_close(
        evidence(model, batch), dense.log_prob(batch["x"].flatten(1)), rtol=0, atol=1e-9
    )


def test_posterior_is_bayes_rule():
    """log p(x, z) - log p(z | x) = log p(x) at any z whatever."""
    built = made("ppca")
    model, batch = built.model, data(built)
    z = 3 * torch.randn(ROWS, 3, dtype=torch.float64)
    log_joint = torch.distributions.Normal(z.new_zeros(3), 1.0).log_prob(z).sum(-1)
    loc = z @ model.weight.T + model.mean
    log_joint += torch.distributions.Normal(loc, model.scale).log_prob(batch["x"]).sum(-1)
    log_posterior = posterior(model, batch)["z"].log_prob(z)
    torch.testing.assert_close(log_joint - log_posterior, evidence(model, batch), rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator", [ELBO(7), IWAE(7)], ids=lambda e: type(e).__name__)
def test_exact_guide_has_the_evidence_as_its_bound_for_every_datum(estimator):
    built = made("ppca")
    batch = data(built)
    log_weight = built.score(batch, 7).log_weight
    log_p = evidence(built.model, batch)
    torch.testing.assert_close(log_weight, log_p.expand(7, ROWS), rtol=0, atol=1e-9)
    torch.testing.assert_close(estimator.estimate(built, batch).bound, log_p, rtol=0, atol=1e-9)


def expected_elbo(built, batch) -> Tensor:
    """E_q log p(x, z) - E_q log q of a diagonal Gaussian guide, in closed form, (B,)."""
    q = built.score(batch, 1).sites["z"].q.base_dist
    model, x = built.model, batch["x"].flatten(1)
    loc, variance = q.loc, q.scale**2
    rate = 0.5 * (loc**2 + variance - variance.log() - 1).sum(-1)
    error = (x - loc @ model.weight.T - model.mean).square().sum(-1) + variance @ model.weight.square().sum(0)
    size = x.shape[-1]
    return -0.5 * (size * (2 * math.pi * model.scale**2).log() + error / model.scale**2) - rate


@pytest.mark.parametrize("name", ["ppca_mean_field", "linear_vae"])
def test_mean_field_gap_at_its_optimum(name):
    built = made(name)
    batch, gap = data(built), at_best(built)
    assert gap > 0.01  # W'W is far from diagonal here
    bound = expected_elbo(built, batch)
    torch.testing.assert_close(evidence(built.model, batch) - bound, gap.expand(ROWS), rtol=0, atol=1e-9)
    # It is the optimum: the closed-form bound has no gradient left in the guide.
    names, parameters = zip(*built.groups()["guide"].items(), strict=True)
    gradients = torch.autograd.grad(bound.mean(), parameters)
    assert max(g.abs().max() for g in gradients) < 1e-9, names


@pytest.mark.parametrize("x_shape", [(6,), (1, 2, 3)])
@pytest.mark.parametrize("name", ["ppca", "ppca_full", "ppca_mean_field", "linear_vae"])
def test_evidence_is_elbo_plus_kl(name, x_shape):
    """Exact to 1e-9 at a guide far from its optimum; the KL is that of two dense Gaussians."""
    built = made(name, x_shape)
    batch = data(built)
    with torch.no_grad():
        for p in built.guide.parameters() if name != "ppca" else ():
            p.add_(0.3 * torch.randn_like(p))
        q = built.guide.q(batch["x"])
        covariance = getattr(q, "covariance_matrix", None)
        covariance = torch.diag_embed(q.variance) if covariance is None else covariance
        dense = torch.distributions.MultivariateNormal(q.mean, covariance)
        gap = torch.distributions.kl_divergence(dense, posterior(built.model, batch)["z"])
        elbo = built.pair.elbo(built.model, built.guide, batch)
        torch.testing.assert_close(elbo + gap, evidence(built.model, batch), rtol=0, atol=1e-9)
    assert (gap.max() < 1e-9) if name == "ppca" else (gap.min() > 0.1)


@pytest.mark.parametrize("estimator", [ELBO, AnalyticKL])
def test_estimates_average_to_the_closed_form(estimator):
    built = made("ppca_mean_field")
    batch = data(built)
    draws = torch.stack([estimator(100).estimate(built, batch).bound for _ in range(100)]).detach()
    deviation = (draws.mean(0) - expected_elbo(built, batch).detach()) / (draws.std(0) / 10)
    # 40 data, seed 11: the largest of 40 standard normals exceeds 4 once in 400 seeds.
    assert deviation.abs().max() < 4


def test_iwae_rises_with_k_and_stays_below_the_evidence():
    """Means over the same data, within 3 standard errors; seed 11, 1000 estimates of each of 10 data."""
    built = made("ppca_mean_field")
    rows = 10
    batch = {"x": data(built)["x"][:rows]}
    at_best(built)
    with torch.no_grad():
        built.guide.encoder.weight.mul_(0.7)
        log_p = evidence(built.model, batch).mean()
        means, errors = [], []
        for k in (1, 2, 5, 20, 100):
            log_weight = built.score(batch, 1000 * k).log_weight.reshape(1000, k, rows)
            bounds = (log_weight.logsumexp(1) - math.log(k)).mean(-1)
            means.append(bounds.mean())
            errors.append(bounds.std() / math.sqrt(1000))
            assert means[-1] <= log_p + 3 * errors[-1]
    for low, high, a, b in zip(means, means[1:], errors, errors[1:], strict=False):
        assert high >= low - 3 * (a**2 + b**2).sqrt()
    assert log_p - means[0] > 20 * errors[0]  # there was something to gain
    assert means[-1] - means[0] > 0.5 * (log_p - means[0])


def test_iwae_estimator_is_the_log_mean_weight():
    built = made("ppca_mean_field")
    batch = data(built)
    at_best(built)
    torch.manual_seed(3)
    bound = IWAE(5).estimate(built, batch).bound
    torch.manual_seed(3)
    log_weight = built.score(batch, 5).log_weight
    torch.testing.assert_close(bound, log_weight.exp().mean(0).log())


def test_full_covariance_guide_reaches_the_evidence():
    built = made("ppca_full")
    batch, model = data(built), built.model
    precision = model.precision()
    gain = torch.linalg.solve(precision, model.weight.T) / model.scale**2
    with torch.no_grad():
        built.guide.encoder.weight.copy_(gain)
        built.guide.encoder.bias.copy_(-gain @ model.mean)
        built.guide.scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision)).detach()
    log_weight = built.score(batch, 3).log_weight
    torch.testing.assert_close(log_weight, evidence(model, batch).expand(3, ROWS), rtol=0, atol=1e-9)

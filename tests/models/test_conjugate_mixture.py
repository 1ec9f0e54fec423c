"""The conjugate mixture against quadrature over z and Bayes' rule, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ppvae.build import build
from ppvae.estimators import find as find_estimator
from ppvae.pair import posterior_draws
from ppvae.registry import find

ROWS, COMPONENTS = 4, 3


def made(x_shape=(2,), scale=0.5) -> tuple[Any, dict[str, Tensor]]:
    sizes: dict[str, Any] = {"x_shape": x_shape, "components": COMPONENTS, "scale": scale}
    built = build(find("conjugate_mixture"), None, seed=0, **sizes).double()
    torch.manual_seed(81)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.3 * torch.randn_like(p))
        return built, {"x": built.run_model(n=ROWS)}


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=tolerance, atol=tolerance)


def log_joint(model, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z, c) at z, (*batch of z, C), from the three laws as the model's page writes them."""
    prior = MultivariateNormal(model.loc, model.scale_tril @ model.scale_tril.mT)
    seen = Normal(z, model.scale).log_prob(x).sum(-1, keepdim=True)
    return model.logits.log_softmax(-1) + prior.log_prob(z.unsqueeze(-2)) + seen


def test_evidence_is_the_integral_over_the_code():
    """A grid of step 1/16 over [-8, 8]^2: the trapezoidal rule is exact to 1e-9 for Gaussians this wide."""
    built, batch = made()
    line = torch.arange(-128, 129, dtype=torch.float64) / 16
    z = torch.cartesian_prod(line, line)
    with torch.no_grad():
        each = torch.stack([log_joint(built.model, x, z).logsumexp((0, 1)) for x in batch["x"]])
        by_component = torch.stack([log_joint(built.model, x, z).logsumexp(0) for x in batch["x"]])
    cell = -2 * math.log(16)
    close(built.pair.evidence(built.model, batch), each + cell, 1e-8)
    close(built.model.log_joint(batch["x"]), by_component + cell, 1e-8)


@pytest.mark.parametrize("x_shape", [(2,), (1, 1, 3)])
def test_posterior_is_bayes_rule(x_shape):
    """log p(x, z, c) - log p(c | x) - log p(z | x, c) = log p(x) for every c at any z."""
    built, batch = made(x_shape)
    model, x = built.model, batch["x"]
    z = 2 * torch.randn(ROWS, math.prod(x_shape), dtype=torch.float64)
    found = built.pair.posterior(model, batch)
    given_c = model.posterior_z(x).log_prob(z.unsqueeze(-2))
    left = log_joint(model, x.flatten(1), z) - found["c"].logits - given_c
    evidence = built.pair.evidence(model, batch)
    close(left, evidence.unsqueeze(-1).expand(-1, COMPONENTS))
    close(found["c"].probs.sum(-1), torch.ones(ROWS, dtype=torch.float64))
    for i, c in enumerate(torch.eye(COMPONENTS, dtype=torch.float64)):
        close(found["z"]({"c": c.expand(ROWS, -1)}).log_prob(z), given_c[:, i])


def test_draws_of_the_posterior_know_of_each_other():
    """50,000 joint draws (seed 81): for each c, as often as p(c | x), z has the mean of p(z | x, c), within 5
    standard errors."""
    built, batch = made()
    with torch.no_grad():
        laws = built.pair.posterior(built.model, batch)
        each = built.model.posterior_z(batch["x"])
        drawn = posterior_draws(laws, 50_000)
    assert [value.shape for value in drawn.values()] == [(50_000, ROWS, COMPONENTS), (50_000, ROWS, 2)]
    share = drawn["c"].mean(0)
    probs = laws["c"].probs
    assert ((share - probs).abs() < 5 * (probs * (1 - probs) / 50_000).sqrt() + 1e-4).all()
    count = drawn["c"].sum(0).unsqueeze(-1)
    mean = torch.einsum("nbc,nbd->bcd", drawn["c"], drawn["z"]) / count.clamp(min=1)
    error = (each.variance / count.clamp(min=1)).sqrt()
    assert (((mean - each.loc).abs() < 5 * error) | (count < 20)).all()
    assert (count >= 20).sum() > ROWS


@pytest.mark.parametrize("x_shape", [(2,), (1, 1, 3)])
def test_evidence_is_elbo_plus_kl(x_shape):
    """Exact to 1e-9: KL(q, posterior) = KL(q(c), p(c)) + sum_c q(c) KL(q(z | c), p(z | c))."""
    built, batch = made(x_shape)
    model, guide, x = built.model, built.guide, batch["x"]
    q, p = guide.q_c(x).logits, built.pair.posterior(model, batch)["c"].logits
    inner = kl_divergence(guide.q_z_of_all(x), model.posterior_z(x))
    gap = (q.exp() * (q - p + inner)).sum(-1)
    assert gap.min() > 0.01
    close(built.pair.elbo(model, guide, batch) + gap, built.pair.evidence(model, batch))


def test_each_component_of_the_guide_is_the_one_that_its_index_picks():
    built, batch = made((1, 1, 3))
    every = built.guide.q_z_of_all(batch["x"])
    for i, c in enumerate(torch.eye(COMPONENTS, dtype=torch.float64)):
        one = built.guide.q_z(batch["x"], c.expand(ROWS, -1))
        close(one.loc, every.loc[:, i])
        close(one.scale_tril, every.scale_tril[:, i].expand(ROWS, -1, -1))


def at_posterior(built) -> None:
    """Sets the guide to the exact posterior."""
    model, guide = built.model, built.guide
    with torch.no_grad():
        eye = torch.eye(model.loc.shape[-1], dtype=torch.float64)
        covariance = model.scale_tril @ model.scale_tril.mT
        precision = torch.linalg.inv(covariance + model.scale**2 * eye)
        guide.centre.copy_(model.loc)
        guide.root.copy_(torch.linalg.cholesky(precision).mT)
        guide.bias.copy_(model.logits.log_softmax(-1) + precision.logdet() / 2)
        gain = covariance @ precision
        guide.gain.copy_(gain)
        guide.offset.copy_(model.loc - (gain @ model.loc.unsqueeze(-1)).squeeze(-1))
        guide.scale_tril = torch.linalg.cholesky(model.scale**2 * gain)


@pytest.mark.parametrize("x_shape", [(2,), (1, 1, 3)])
def test_the_guide_contains_the_posterior(x_shape):
    """Every draw has the evidence as its weight, and the best guide has no gradient left."""
    built, batch = made(x_shape)
    at_posterior(built)
    evidence = built.pair.evidence(built.model, batch)
    close(built.score(batch, 5).log_weight, evidence.expand(5, ROWS))
    bound = built.pair.elbo(built.model, built.guide, batch)
    close(bound, evidence)
    gradients = torch.autograd.grad(bound.mean(), list(built.guide.parameters()))
    assert max(g.abs().max() for g in gradients) < 1e-9


def test_the_component_may_be_summed_out_or_drawn():
    """By default the bound sums c out under q, and weights draw it; the sum lacks the variance of c alone."""
    built, batch = made()
    estimator = find_estimator(str(built.pair.train["estimator"]))
    assert estimator.score(built, batch, {}).sites["c"].how == "enumerate"
    exact = built.pair.elbo(built.model, built.guide, batch).detach()
    summed = estimator.score(built, batch, {}).log_weight
    assert summed.shape == (1, ROWS)
    draws = torch.stack([estimator.score(built, batch, {}).log_weight[0].detach() for _ in range(2000)])
    error = draws.std(0) / math.sqrt(2000)
    assert ((draws.mean(0) - exact).abs() < 4 * error).all()
    assert (draws.var(0) < built.score(batch, 2000).log_weight.var(0)).all()


def test_a_relaxed_component_is_taken_as_it_stands():
    built, batch = made()
    terms = find_estimator("elbo:c=gumbel").score(built, batch, {})
    assert terms.log_weight.isfinite().all()
    assert ((terms.sites["c"].value > 0).sum(-1) > 1).any()

"""Pairs that know their exact ELBO: it is the mean of what scoring draws, and so is its gradient."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae.build import build
from ppvae.estimators import ELBO
from ppvae.registry import find, names

KNOWN = [name for name in names() if find(name).elbo is not None]
ROWS = 5


def made(name: str) -> tuple[Any, dict[str, Tensor]]:
    """The pair in float64, moved away from its start, and data that its own model draws (seed 51)."""
    built = build(find(name), None, seed=0).double()
    torch.manual_seed(51)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.1 * torch.randn_like(p))
        batch = {"x": built.run_model(n=ROWS)}
    return built, batch


def test_the_oracles_are_among_them():
    wanted = {"ppca", "ppca_full", "ppca_mean_field", "linear_vae", "linear_hierarchy", "noisy_or"}
    assert wanted | {"conjugate_mixture"} <= set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_the_mean_log_weight(name):
    """20,000 draws of each of 5 data: the largest of 7 x 5 deviations exceeds 4 once in 400 seeds."""
    built, batch = made(name)
    with torch.no_grad():
        log_weight = built.score(batch, 20_000).log_weight
        exact = built.pair.elbo(built.model, built.guide, batch)
    assert exact.shape == (ROWS,)
    error = log_weight.std(0) / math.sqrt(len(log_weight))
    assert ((log_weight.mean(0) - exact).abs() <= 4 * error + 1e-9).all()
    if name != "ppca":  # the exact guide has no variance
        assert (error > 1e-4).all()
        assert (error < 0.5).all()


@pytest.mark.parametrize("name", KNOWN)
def test_its_gradient_is_the_mean_gradient(name):
    """150 estimates of 300 draws: every number of the gradient within 4.5 standard errors; about 250 numbers,
    of which one exceeds that once in 600 seeds. Discrete latents take the score function."""
    built, batch = made(name)
    parameters = dict(built.named_parameters())
    exact = torch.autograd.grad(
        built.pair.elbo(built.model, built.guide, batch).mean(), list(parameters.values())
    )
    estimator = ELBO(300)
    each = []
    for _ in range(150):
        loss = estimator.estimate(built, batch).losses["all"]
        each.append(torch.autograd.grad(-loss, list(parameters.values())))
    for i, (key, wanted) in enumerate(zip(parameters, exact, strict=True)):
        found = torch.stack([gradients[i] for gradients in each])
        error = found.std(0) / math.sqrt(len(each))
        assert ((found.mean(0) - wanted).abs() <= 4.5 * error + 1e-9).all(), key
        assert wanted.abs().max() > 1e-4, key


@pytest.mark.parametrize("name", KNOWN)
def test_it_stays_below_the_evidence(name):
    built, batch = made(name)
    with torch.no_grad():
        gap = built.pair.evidence(built.model, batch) - built.pair.elbo(built.model, built.guide, batch)
    if name == "ppca":
        assert gap.abs().max() < 1e-9
    else:
        assert (gap > 1e-3).all()

"""The noisy-or network against sums that are written out one state at a time, in float64."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae.build import build
from ppvae.errors import UsageError
from ppvae.estimators import find as find_estimator
from ppvae.registry import find

ROWS = 7


def made(latent=2, x_shape=(6,)) -> tuple[Any, dict[str, Tensor]]:
    built = build(find("noisy_or"), None, seed=0, latent=latent, x_shape=x_shape).double()
    torch.manual_seed(71)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.5 * torch.randn_like(p))
        return built, {"x": built.run_model(n=ROWS)}


def joint(model, x: Tensor, z: tuple[int, ...]) -> float:
    """p(x, z) of one datum by products of probabilities."""
    p = 1.0
    for prior, bit in zip(model.logits.sigmoid().tolist(), z, strict=True):
        p *= prior if bit else 1 - prior
    for leak, row, value in zip(
        model.leak.tolist(), model.weight.tolist(), x.flatten().tolist(), strict=True
    ):
        off = math.exp(-leak)
        for weight, bit in zip(row, z, strict=True):
            off *= math.exp(-weight) if bit else 1.0
        p *= 1 - off if value else off
    return p


def table(model, x: Tensor) -> dict[tuple[int, ...], list[float]]:
    states = list(itertools.product((0, 1), repeat=model.latent))
    return {z: [joint(model, row, z) for row in x] for z in states}


def close(found, wanted, tolerance=1e-9):
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(found.detach(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("latent", "x_shape"), [(1, (6,)), (2, (6,)), (3, (1, 2, 2))])
def test_evidence_posterior_and_elbo_are_sums(latent, x_shape):
    """Exact to 1e-9: log p(x) = ELBO + KL(q, posterior) with each of them summed by hand."""
    built, batch = made(latent, x_shape)
    model, x = built.model, batch["x"]
    p = table(model, x)
    evidence = torch.tensor(list(p.values()), dtype=torch.float64).sum(0).log()
    close(built.pair.evidence(model, batch), evidence)
    posterior = built.pair.posterior(model, batch)["z"]
    q = built.guide.encoder(x.flatten(1)).sigmoid()
    elbo, gap = torch.zeros(ROWS, dtype=torch.float64), torch.zeros(ROWS, dtype=torch.float64)
    for z, values in p.items():
        bits = torch.tensor(z, dtype=torch.float64)
        log_p = torch.tensor(values, dtype=torch.float64).log()
        close(posterior.log_prob(bits.expand(ROWS, -1)), log_p - evidence)
        mass = (q**bits * (1 - q) ** (1 - bits)).prod(-1).detach()
        elbo += mass * (log_p - mass.log())
        gap += mass * (mass.log() - log_p + evidence)
    close(built.pair.elbo(model, built.guide, batch), elbo)
    close(built.pair.elbo(model, built.guide, batch) + gap, evidence)
    if latent > 1:
        assert gap.min() > 1e-3


def test_what_the_model_draws_and_scores_is_the_same_law():
    """40,000 draws (seed 71): frequencies of all 2^3 x within 5 standard errors of the summed evidence."""
    built, _ = made(latent=2, x_shape=(3,))
    with torch.no_grad():
        x = built.run_model(n=40_000)
        every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
        p = built.pair.evidence(built.model, {"x": every}).exp()
    close(p.sum(), 1.0)
    seen = (x[:, None] == every).all(-1).double().mean(0)
    assert ((seen - p).abs() < 5 * (p * (1 - p) / 40_000).sqrt()).all()


def test_log_odds_are_finite_where_a_cause_is_certain_or_nothing_is():
    built, _ = made()
    with torch.no_grad():
        built.model.raw_weight.fill_(200.0)
        built.model.raw_leak.fill_(-40.0)
    batch = {"x": torch.tensor([[0.0, 1, 0, 1, 0, 1]], dtype=torch.float64)}
    loss = -built.pair.elbo(built.model, built.guide, batch).sum()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in built.parameters())


def test_relaxed_causes_are_taken_as_they_stand():
    built, batch = made()
    torch.manual_seed(72)
    terms = find_estimator("elbo:z=gumbel").score(built, batch, {})
    z = terms.sites["z"].value
    assert ((z > 0) & (z < 1)).any()
    assert terms.log_weight.isfinite().all()


def test_too_many_causes_to_sum_over_are_refused():
    built, batch = made(latent=21)
    with pytest.raises(UsageError, match="2\\^21 values"):
        built.pair.evidence(built.model, batch)
    assert built.score(batch, 2).log_weight.shape == (2, ROWS)

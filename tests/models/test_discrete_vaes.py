"""`bernoulli_vae` and `categorical_vae`: small ones against sums over every code, in float64."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, OneHotCategorical

from ppvae import fit
from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import find as find_estimator
from ppvae.registry import find

SMALL: dict[str, dict[str, Any]] = {
    "bernoulli_vae": {"latent": 4},
    "categorical_vae": {"codes": 2, "categories": 3},
}
CODE = {"bernoulli_vae": (4,), "categorical_vae": (2, 3)}
ROWS = 5
NAMES = list(SMALL)


def made(name: str, **sizes) -> Any:
    """The pair in float64, with every parameter moved (seed 91)."""
    given = {"x_shape": (1, 3, 3), "hidden": (8,), **SMALL[name], **sizes}
    built = build(find(name), None, seed=0, **given).double()
    torch.manual_seed(91)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return built


def pictures(rows=ROWS) -> Tensor:
    return (torch.rand(rows, 1, 3, 3, generator=torch.Generator().manual_seed(92)) < 0.4).double()


def states(name: str) -> Tensor:
    """Every code, (states, *CODE)."""
    if name == "bernoulli_vae":
        return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    rows = list(itertools.product(torch.eye(3, dtype=torch.float64), repeat=2))
    return torch.stack([torch.stack(row) for row in rows])


def by_hand(name: str, built, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z | x) of every code z, (states, B), by the densities of the pages."""
    z = states(name)
    logits = built.model.decoder(z.flatten(1)).unsqueeze(1)
    log_likelihood = Bernoulli(logits=logits).log_prob(x).flatten(2).sum(-1)
    encoded = built.guide.encoder(x)
    if name == "bernoulli_vae":
        prior = Bernoulli(logits=built.model.prior_logits).log_prob(z).sum(-1)
        log_q = Bernoulli(logits=encoded).log_prob(z.unsqueeze(1)).sum(-1)
    else:
        prior = torch.full((len(z),), -2 * math.log(3), dtype=torch.float64)
        log_q = OneHotCategorical(logits=encoded).log_prob(z.unsqueeze(1)).sum(-1)
    return prior.unsqueeze(1) + log_likelihood, log_q


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_log_weight_is_log_joint_less_log_q(name):
    built, x = made(name), pictures()
    terms = built.score({"x": x}, 7)
    z = terms.sites["z"].value
    assert z.shape == (7, ROWS, *CODE[name])
    log_p, log_q = by_hand(name, built, x)
    index = (z.flatten(2).unsqueeze(2) == states(name).flatten(1)).all(-1).double().argmax(-1)
    close(terms.log_weight, (log_p - log_q).T.gather(1, index.T).T)


@pytest.mark.parametrize("name", NAMES)
def test_small_codes_have_a_known_evidence(name):
    """Exact to 1e-9: the estimator `enumeration` has log p(x) and the ELBO by the sums written out here, and
    log p(x) = ELBO + KL(q, posterior)."""
    built, x = made(name), pictures()
    log_p, log_q = by_hand(name, built, x)
    close(log_q.logsumexp(0), torch.zeros(ROWS, dtype=torch.float64))
    evidence = log_p.logsumexp(0)
    objective = find_estimator("enumeration").estimate(built, {"x": x})
    close(objective.metrics["log_evidence"], evidence.mean().detach())
    elbo = (log_q.exp() * (log_p - log_q)).sum(0)
    close(objective.bound, elbo.detach())
    gap = (log_q.exp() * (log_q - log_p + evidence)).sum(0)
    assert gap.min() > 1e-3
    close(elbo + gap, evidence)


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_takes_relaxed_codes(name):
    built, x = made(name), pictures()
    for text in ("elbo:z=gumbel", "elbo:z=straight_through"):
        objective = find_estimator(text).estimate(built, {"x": x})
        objective.losses["all"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters()), text
        assert all((p.grad != 0).any() for p in built.guide.parameters()), text
        built.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_missing_values_count_for_nothing(name):
    built, x = made(name), pictures()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(93)) < 0.5
    seen = []
    for filled in (x, torch.where(mask, x, 1 - x)):
        torch.manual_seed(94)
        seen.append(built.score({"x": filled, "mask": mask}, 3).log_weight)
    close(seen[0], seen[1], 0)


@pytest.mark.parametrize("name", NAMES)
def test_nets_of_ones_own(name):
    size = states(name)[0].numel()
    own = made(name, encoder=nn.Sequential(nn.Flatten(), nn.Linear(9, size)), decoder=nn.Linear(size, 9))
    assert own.score({"x": pictures()}, 2).log_weight.shape == (2, ROWS)
    with pytest.raises(PairError, match="must return"):
        made(name, encoder=nn.Sequential(nn.Flatten(), nn.Linear(9, size + 1)))
    assert own.run_model(n=6).shape == (6, 1, 3, 3)


@pytest.mark.parametrize("name", NAMES)
def test_small_sizes_train_by_the_pairs_own_options(name):
    x = pictures(40).float()
    trained = fit(name, x, steps=3, batch=8, sizes=SMALL[name], eval_k=0, progress=False)
    assert trained.config.estimator == find(name).train["estimator"]
    assert trained.generate(3).shape == (3, 1, 3, 3)
    assert trained.reconstruct(x[:2]).shape == (2, 1, 3, 3)
    assert trained.encode(x[:2])["z"].shape == (2, *CODE[name])

"""The Gaussian-mixture VAE: its component summed out exactly, and read off again, in float64."""

import math
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import IWAE
from ppvae.estimators import find as find_estimator
from ppvae.registry import find

ROWS, COMPONENTS, LATENT = 5, 3, 2


def made(**sizes) -> Any:
    given = {"x_shape": (1, 3, 3), "hidden": (8,), "latent": LATENT, "components": COMPONENTS, **sizes}
    built = build(find("gmvae"), None, seed=0, **given).double()
    torch.manual_seed(111)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return built


def pictures() -> Tensor:
    return (torch.rand(ROWS, 1, 3, 3, generator=torch.Generator().manual_seed(112)) < 0.4).double()


def log_joint_by_hand(model, z: Tensor) -> Tensor:
    """log p(c) + log N(z; loc[c], scale[c]^2), one component after another, (*batch, C)."""
    weight = torch.softmax(model.prior_logits, -1)
    each = [
        weight[c].log() + Normal(model.loc[c], model.scale[c]).log_prob(z).sum(-1) for c in range(COMPONENTS)
    ]
    return torch.stack(each, -1)


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=tolerance, atol=tolerance)


def test_the_component_is_summed_out():
    """Exact to 1e-9 for each draw: log w = log sum_c p(c) p(z | c) + log p(x | z) - log q(z | x)."""
    built, x = made(), pictures()
    model = built.model
    terms = built.score({"x": x}, 6)
    z = terms.sites["z"].value
    loc, scale = built.guide.encoder(x)
    log_q = Normal(loc, scale).log_prob(z).sum(-1)
    log_likelihood = Bernoulli(logits=model.decoder(z)).log_prob(x).flatten(2).sum(-1)
    close(terms.log_weight, log_joint_by_hand(model, z).logsumexp(-1) + log_likelihood - log_q)
    close(model.log_joint(z), log_joint_by_hand(model, z))
    assert IWAE(3).estimate(built, {"x": x}).bound is not None


def test_the_rate_of_the_component_is_that_of_its_posterior():
    """The site c has log p - log q = E log p(c) + H under p(c | z)."""
    built, x = made(), pictures()
    terms = built.score({"x": x}, 4)
    posterior = built.model.component_given(terms.sites["z"].value)
    prior = torch.log_softmax(built.model.prior_logits, -1)
    close(terms.sites["c"].log_ratio, (posterior.probs * (prior - posterior.logits)).sum(-1))


def test_component_given_z_is_bayes_rule():
    built = made()
    z = 2 * torch.randn(7, 4, LATENT, dtype=torch.float64)
    joint = log_joint_by_hand(built.model, z).exp()
    found = built.model.component_given(z).probs
    close(found, joint / joint.sum(-1, keepdim=True))
    assert found.shape == (7, 4, COMPONENTS)


def test_component_of_a_datum_is_the_mean_over_the_guide():
    """Rows sum to one; 40,000 draws agree with quadrature of the 2-dimensional q within 5 standard errors."""
    built, x = made(), pictures()
    found = built.guide.component(x, particles=40_000)
    close(found.sum(-1), torch.ones(ROWS, dtype=torch.float64))
    with torch.no_grad():
        loc, scale = built.guide.encoder(x)
        line = torch.arange(-80, 81, dtype=torch.float64) / 10
        grid = torch.cartesian_prod(line, line).unsqueeze(1)
        weight = Normal(0.0, 1.0).log_prob(grid).sum(-1, keepdim=True).exp() / 100
        probs = built.model.component_given(loc + scale * grid).probs
        wanted = (weight * probs).sum(0)
        error = ((weight * probs.square()).sum(0) - wanted.square()).sqrt() / math.sqrt(40_000)
    assert ((found - wanted).abs() < 5 * error).all()
    assert (wanted.max(0).values - wanted.min(0).values).max() > 0.01  # it depends on the datum


def test_what_it_draws_has_the_moments_of_its_prior():
    """50,000 codes (seed 111): mean and variance of the mixture, within 5 standard errors."""
    built = made()
    model = built.model
    with torch.no_grad(), built.local():
        z = pyro.poutine.trace(model).get_trace(n=50_000).nodes["z"]["value"]
        weight = torch.softmax(model.prior_logits, -1).unsqueeze(-1)
        mean = (weight * model.loc).sum(0)
        variance = (weight * (model.scale**2 + model.loc**2)).sum(0) - mean**2
    assert ((z.mean(0) - mean).abs() < 5 * (variance / 50_000).sqrt()).all()
    assert ((z.var(0) / variance - 1).abs() < 0.1).all()


def test_one_component_is_a_vae_with_a_learned_gaussian_prior():
    built, x = made(components=1), pictures()
    terms = built.score({"x": x}, 3)
    close(terms.sites["c"].log_ratio, torch.zeros(3, ROWS, dtype=torch.float64))
    z = terms.sites["z"].value
    wanted = Normal(built.model.loc[0], built.model.scale[0]).log_prob(z).sum(-1)
    close(terms.sites["z"].log_p, wanted)


@pytest.mark.parametrize("text", ["elbo:c=gumbel", "elbo:c=score"])
def test_the_component_is_not_the_guides_to_draw(text):
    """Only the model has c: what draws it instead of summing it is refused by a line."""
    with pytest.raises(PairError):
        find_estimator(text).estimate(made(), {"x": pictures()})


def test_means_start_apart_and_scales_stay_above_zero():
    built = made(spread=3.0)
    fresh: Any = build(find("gmvae"), None, latent=20, components=10, spread=3.0, x_shape=(1, 3, 3))
    distance = torch.cdist(fresh.model.loc, fresh.model.loc) + 100 * torch.eye(10)
    assert distance.min() > 3
    with torch.no_grad():
        built.model.raw_scale.fill_(-200.0)
    assert built.model.scale.min() >= 1e-3
    assert built.score({"x": pictures()}, 2).log_weight.isfinite().all()

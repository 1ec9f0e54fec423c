"""The autoencoder: a code without probability, whose objective is log p(x | z) and nothing else."""

from typing import Any

import torch

from ppvae.build import build
from ppvae.estimators import ELBO, IWAE, AnalyticKL
from ppvae.registry import find


def made() -> Any:
    return build(find("autoencoder"), None, seed=0, x_shape=(1, 4, 4), latent=2, hidden=(8,)).double()


def pictures(rows=6):
    return (torch.rand(rows, 1, 4, 4, generator=torch.Generator().manual_seed(41)) < 0.4).double()


def test_it_says_that_it_has_no_bound():
    assert find("autoencoder").bound == "none"


def test_objective_is_the_likelihood_at_the_code():
    built, x = made(), pictures()
    logits = built.model.decoder(built.guide.encoder(x))
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).flatten(1).sum(-1)
    for estimator in (ELBO(1), ELBO(5), AnalyticKL(2), IWAE(3)):
        torch.testing.assert_close(estimator.estimate(built, {"x": x}).bound, expected)


def test_its_code_has_no_terms_and_no_noise():
    built, x = made(), pictures()
    sites = [built.score({"x": x}, 3).sites["z"] for _ in range(2)]
    for site in sites:
        assert (site.log_p == 0).all()
        assert (site.log_q == 0).all()
    assert (sites[0].value == sites[1].value).all()
    ELBO().estimate(built, {"x": x}).losses["all"].backward()
    assert all((p.grad != 0).any() for p in built.parameters() if p.dim() == 2)


def test_drawing_decodes_codes_that_no_encoder_made():
    """n draws come from N(0, I), wherever the encoder has put the data."""
    built = made()
    torch.manual_seed(42)
    with torch.no_grad():
        built.model.decoder.layers[-1].bias.fill_(30.0)
        built.model.decoder.layers[-1].weight.zero_()
    assert (built.run_model(n=5) == 1).all()


def test_missing_values_count_for_nothing():
    built, x = made(), pictures()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(43)) < 0.5
    first = ELBO().estimate(built, {"x": x, "mask": mask}).bound
    second = ELBO().estimate(built, {"x": torch.where(mask, x, 1 - x), "mask": mask}).bound
    torch.testing.assert_close(first, second, rtol=0, atol=0)

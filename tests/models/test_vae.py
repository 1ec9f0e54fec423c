"""`vae` and `conv_vae`: every likelihood, grey and colour, missing values, and nets of one's own."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ppvae.build import build
from ppvae.distributions import KINDS
from ppvae.errors import DataError, PairError, UsageError
from ppvae.estimators import ELBO, IWAE, AnalyticKL
from ppvae.registry import find

SMALL = {"vae": {"hidden": (16,), "latent": 3}, "conv_vae": {"width": 4, "latent": 3}}


def made(name="vae", x_shape=(1, 16, 16), **sizes) -> Any:
    return build(find(name), None, seed=0, x_shape=x_shape, **{**SMALL[name], **sizes})


def pictures(x_shape=(1, 16, 16), rows=4, seed=31):
    return (torch.rand(rows, *x_shape, generator=torch.Generator().manual_seed(seed)) < 0.3).float()


@pytest.mark.parametrize("word", KINDS)
@pytest.mark.parametrize("x_shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", SMALL)
def test_scores_and_draws_with_every_likelihood(name, x_shape, word):
    built = made(name, x_shape, likelihood=word)
    batch = {"x": pictures(x_shape)}
    objective = ELBO(3).estimate(built, batch)
    objective.losses["all"].backward()
    assert objective.bound is not None
    assert objective.bound.shape == (4,)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    drawn = built.run_model(n=5)
    assert drawn.shape == (5, *x_shape)
    built.model.likelihood.check(drawn)


def test_sizes_and_start_come_from_the_data():
    mean = torch.full((1, 16, 16), 0.2)
    built = made(x_mean=mean)
    with torch.no_grad():
        built.model.decoder.layers[-1].weight.zero_()
    assert torch.allclose(built.model.decoder(torch.randn(2, 3)).sigmoid(), torch.tensor(0.2))
    made(x_mean=mean, likelihood="gaussian")  # has no such start


def test_log_weight_is_the_sum_of_three_log_densities():
    built = made().double()
    batch = {"x": pictures().double()}
    terms = built.score(batch, 2)
    z = terms.sites["z"].value
    loc, scale = built.guide.encoder(batch["x"])
    log_q = torch.distributions.Normal(loc, scale).log_prob(z).sum(-1)
    log_prior = torch.distributions.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum(-1)
    logits = built.model.decoder(z)
    log_likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(batch["x"]).flatten(2).sum(-1)
    torch.testing.assert_close(terms.log_weight, log_prior + log_likelihood - log_q, rtol=0, atol=1e-9)


def test_missing_values_count_for_nothing():
    built = made().double()
    x = pictures().double()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(32)) < 0.5
    seen = []
    for filled in (x, torch.where(mask, x, 1 - x)):
        torch.manual_seed(33)
        seen.append(IWAE(4).estimate(built, {"x": filled, "mask": mask}).bound)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    # Nothing observed: the likelihood is 1, and what is left is -KL(q, p).
    none = AnalyticKL().estimate(built, {"x": x, "mask": torch.zeros_like(mask)})
    kl = built.score({"x": x, "mask": torch.zeros_like(mask)}).sites["z"].analytic_kl()
    assert kl is not None
    torch.testing.assert_close(none.bound, -kl[0])


def test_a_mask_that_hides_nothing_changes_nothing():
    built = made("conv_vae").double()
    x = pictures().double()
    bounds = []
    for batch in ({"x": x}, {"x": x, "mask": torch.ones_like(x, dtype=torch.bool)}):
        torch.manual_seed(34)
        bounds.append(ELBO(2).estimate(built, batch).bound)
    torch.testing.assert_close(*bounds)


def test_grey_pixels_under_a_bernoulli_are_refused():
    with pytest.raises(DataError, match="--binarization dynamic"):
        ELBO().estimate(made(), {"x": pictures() * 0.5})
    with pytest.raises(UsageError, match="did you mean"):
        made(likelihood="bernouli")


class Encoder(nn.Module):
    """Features of a shape of their own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 5, stride=3)

    def forward(self, x):
        return self.conv(x).relu()


def test_bring_your_encoder_and_decoder():
    decoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 256))
    built = made(encoder=Encoder, decoder=decoder)
    assert built.score({"x": pictures()}, 5).log_weight.shape == (5, 4)
    assert not {id(p) for p in decoder.parameters()} & {id(p) for p in built.parameters()}
    with pytest.raises(PairError, match="must return 512"):
        made(decoder=decoder, likelihood="gaussian")


def test_a_copy_is_complete_and_separate():
    built = made()
    other = copy.deepcopy(built)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert all((p != 0).any() for p in built.parameters() if p.dim() == 2)
    other.load_state_dict(built.state_dict())
    x = {"x": pictures()}
    torch.manual_seed(0)
    first = ELBO().estimate(built, x).bound
    torch.manual_seed(0)
    torch.testing.assert_close(first, ELBO().estimate(other, x).bound)


def test_training_lowers_the_loss():
    built = made(x_mean=pictures(rows=64).mean(0))
    batch = {"x": pictures(rows=64)}
    optimizer = torch.optim.Adam(built.parameters(), lr=1e-2)
    torch.manual_seed(35)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = ELBO().estimate(built, batch).losses["all"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # 64 pictures of independent pixels can only be learnt by heart, which takes 10 nats from 156 here.
    assert sum(losses[-10:]) / 10 < losses[0] - 8

"""An observation outside the data plate may read the latents of every datum: it belongs to their signal.

Exact, over every draw of three bits, one a datum, whose sum is observed.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import find
from ppvae.pair import Pair
from tests.estimators.every_draw import moments
from tests.toys import BernoulliGuide

BITS = torch.tensor([0.0, 1.0])
X = torch.tensor([1.7, 0.2, -0.4], dtype=torch.float64)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(-0.5))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=self.logit))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)
        total = z.sum(-1) if z.dim() == 1 else z.sum(-1, keepdim=True)
        pyro.sample("bag", dist.Normal(total, 0.5), obs=torch.tensor(3.0))


def bag():
    return build(Pair(model=Bag, guide=BernoulliGuide, data=None, discrete={"z": "score"})).double()


def exact() -> tuple[torch.Tensor, torch.Tensor]:
    """The ELBO per datum and its gradient in the guide's logit, by the eight states."""
    logit = torch.logit(torch.tensor(0.6)).requires_grad_()
    q, p = dist.Bernoulli(logits=logit), dist.Bernoulli(logits=torch.tensor(-0.5))
    value = torch.zeros(())
    for z in torch.cartesian_prod(BITS, BITS, BITS).to(X):
        log_joint = (p.log_prob(z) + dist.Normal(2 * z, 1.0).log_prob(X)).sum()
        log_joint = log_joint + dist.Normal(z.sum(), 0.5).log_prob(torch.tensor(3.0))
        log_q = q.log_prob(z).sum()
        value = value + log_q.exp() * (log_joint - log_q) / 3
    (gradient,) = torch.autograd.grad(value, logit)
    return value.detach(), gradient


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("text", ["elbo", "nvil", "elbo:k=2", "reinforce:k=2"])
def test_the_score_function_is_unbiased(text):
    value, gradient = exact()
    found = moments(find(text), bag(), {"x": X}, z=BITS)
    torch.testing.assert_close(found.bound.mean(), value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(-found.gradient["guide.logit"], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("text", ["arm", "disarm", "rebar", "relax"])
def test_blocks_are_unbiased(text):
    """300 gradients of 40 particles each, seed 0: |z| < 3."""
    estimator, built = find(f"{text}:k=40"), bag()
    _, gradient = exact()
    torch.manual_seed(0)
    found = []
    for _ in range(300):
        built.zero_grad()
        estimator.estimate(built, {"x": X}).losses["all"].backward()
        assert isinstance(built.guide.logit, nn.Parameter)
        assert built.guide.logit.grad is not None
        found.append(-built.guide.logit.grad.clone())
    draws = torch.stack(found)
    assert (draws.mean() - gradient).abs() < 3 * draws.std() / len(draws) ** 0.5


@pytest.mark.usefixtures("float64")
def test_sums_over_states_refuse_it():
    with pytest.raises(PairError, match="'bag' is observed outside the data plate"):
        find("enumeration").estimate(bag(), {"x": X})
    with pytest.raises(PairError, match="'bag' depends on an enumerated latent from outside"):
        find("elbo:z=enumerate").estimate(bag(), {"x": X})

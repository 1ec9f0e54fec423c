"""A draw that is masked out, or weighs little, may decide what comes after it: its score counts in full.

Exact, over every draw of one bit that x depends on.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalOperand=false

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import find
from ppvae.pair import Pair
from tests.estimators.every_draw import assert_unbiased, moments, truth

BITS = torch.tensor([0.0, 1.0])


def two_bits(mask=None, scale=1.0):
    """z1 -> z2 -> x, of which z1 is masked out, or scaled, in model and guide alike."""

    def around():
        return poutine.scale(scale=scale) if mask is None else poutine.mask(mask=mask)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(-0.5))

        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                with around():
                    z1 = pyro.sample("z1", dist.Bernoulli(logits=self.logit))
                z2 = pyro.sample("z2", dist.Bernoulli(logits=self.logit + z1))
                return pyro.sample("x", dist.Normal(2 * z1 + z2, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                with around():
                    z1 = pyro.sample("z1", dist.Bernoulli(logits=self.logit))
                pyro.sample("z2", dist.Bernoulli(logits=0.2 * x - z1 * self.logit))

    pair = Pair(model=Model, guide=Guide, data=None, discrete={"z1": "score", "z2": "score"})
    return build(pair).double()


def data():
    return {"x": torch.tensor([1.7], dtype=torch.float64)}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("text", ["elbo", "elbo:k=2", "reinforce:k=2", "nvil", "vimco:k=2", "analytic_kl"])
def test_a_masked_draw_has_its_score(text):
    assert_unbiased(find(text), two_bits(mask=torch.tensor(False)), data(), z1=BITS, z2=BITS)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("text", ["elbo", "elbo:k=2", "reinforce:k=2", "nvil", "analytic_kl"])
@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_a_scaled_draw_has_its_score_once(text, scale):
    assert_unbiased(find(text), two_bits(scale=scale), data(), z1=BITS, z2=BITS)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("masked", [False, True])
def test_the_thermodynamic_sum_of_one_interval_is_unbiased_also_with_a_mask(masked):
    estimator, built = find("tvo:k=2,intervals=1"), two_bits(mask=torch.tensor(not masked))
    supports = {"z1": BITS, "z2": BITS}
    _, wanted = truth(estimator.targets()["guide"], built, data(), 2, **supports)
    found = moments(estimator, built, data(), **supports)
    for name, gradient in found.gradient.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-9)


def masked_bit(how):
    """x given one bit that is masked out by `poutine.mask`, or by its distribution's `.mask`."""

    def bit(logit, rows):
        if how == "poutine":
            with poutine.mask(mask=torch.tensor(False)):
                return pyro.sample("z", dist.Bernoulli(logits=logit))
        law = dist.Bernoulli(logits=logit.expand(rows, 2)).mask(torch.tensor(False))
        return pyro.sample("z", law.to_event(1))[..., 0]

    class Model(nn.Module):
        def forward(self, x=None, *, n=None):
            rows = n if x is None else len(x)
            with pyro.plate("data", rows, dim=-1):
                z = bit(torch.tensor(-0.5), rows)
                return pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                bit(self.logit, len(x))

    return build(Pair(model=Model, guide=Guide, data=None, discrete={"z": "score"})).double()


@pytest.mark.usefixtures("float64")
def test_a_distributions_own_mask_is_none_of_its_law():
    support = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert_unbiased(find("reinforce:k=2"), masked_bit("mask"), data(), z=support)
    terms = masked_bit("mask").score(data())
    assert (terms.sites["z"].log_q == 0).all()
    assert torch.as_tensor(terms.sites["z"].law < 0).all()


def reals(model_mask=None, guide_mask=None, around=False):
    """x given one real number, masked by `.mask` in model or guide, or in both by `poutine.mask`."""

    def normal(loc, scale, rows, mask):
        law = dist.Normal(loc, scale).expand([rows])
        law = law if mask is None else law.mask(torch.full((rows,), mask))
        with poutine.mask(mask=torch.tensor(not around)):
            return pyro.sample("z", law)

    class Model(nn.Module):
        def forward(self, x=None, *, n=None):
            rows = n if x is None else len(x)
            with pyro.plate("data", rows, dim=-1):
                z = normal(torch.zeros(()), 1.0, rows, model_mask)
                return pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(0.1))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                normal(self.loc, 0.7, len(x), guide_mask)

    return build(Pair(model=Model, guide=Guide, data=None)).double()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("masks", [(True, False), (False, True), (True, True), (None, False)])
def test_a_closed_form_kl_keeps_what_one_side_masks(masks):
    """Under one seed the value is the ELBO's, whose terms know each mask."""
    built = reals(*masks)
    bounds = []
    for text in ("elbo", "analytic_kl"):
        torch.manual_seed(0)
        bounds.append(find(text).estimate(built, data()).bound)
    torch.testing.assert_close(bounds[0], bounds[1], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_path_derivatives_refuse_a_silent_draw_that_still_counts():
    for text in ("dreg", "gdreg", "cubo"):
        with pytest.raises(PairError, match="'z', which is masked where something still depends on it"):
            find(text).estimate(reals(around=True), data())
        with pyro.validation_enabled(False):  # as in every step but the first: nothing is read back
            find(text).estimate(reals(around=True), data())
        find(text).estimate(reals(), data())
    find("iwae").estimate(reals(around=True), data())


@pytest.mark.usefixtures("float64")
def test_a_support_that_moves_has_no_score_of_mean_zero():
    class Model(nn.Module):
        def forward(self, x=None, *, n=None):
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                return pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None, moves=True):
            super().__init__()
            self.width = nn.Parameter(torch.tensor(1.1), requires_grad=moves)
            self.loc = nn.Parameter(torch.tensor(0.0))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Uniform(torch.zeros(()), self.width))

    pair = Pair(model=Model, guide=Guide, data=None)
    built = build(pair).double()
    for text in ("stl", "dreg", "gdreg", "cubo", "tvo", "iwae_stl"):
        with pytest.raises(PairError, match="the support of its Uniform moves with the guide"):
            find(text).estimate(built, data())
        find(text).estimate(build(pair, moves=False).double(), data())
    with pytest.raises(PairError, match="Uniform whose support moves with the guide"):
        find("elbo:z=score").estimate(built, data())
    find("elbo:z=score").estimate(build(pair, moves=False).double(), data())
    find("iwae").estimate(built, data())

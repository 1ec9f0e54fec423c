"""Dreams: draws of the model, and the guide's account of them."""
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportOptionalSubscript=false, reportTypedDictNotRequiredAccess=false, reportOptionalOperand=false
# pyright: reportOperatorIssue=false

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators.path_derivative import log_guide
from ppvae.estimators.rws import refuse_without_density
from ppvae.pair import Pair
from tests.test_proof_pairs import make
from tests.toys import (
    MLP_VAE,
    BernoulliGuide,
    bernoulli_model,
    bernoulli_toy,
    bits,
    gaussian_model,
    nothing,
    ones,
    z_score,
)

pytestmark = pytest.mark.usefixtures("float64")


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_latents_and_observations_are_one_draw_of_the_model():
    """100,000 dreams, seed 0: p(z = 1), p(x = 1), p(z = 1, x = 1) of the Bernoulli toy within 3 standard
    errors; each term is the model's or the guide's log-probability of that draw, to 1e-9."""
    torch.manual_seed(0)
    terms = bernoulli_toy().dream(ones(100_000))
    z, x = terms.sites["z"].value, terms.sites["x"].value
    for value, truth in ((z, 0.3), (x, 0.41), (z * x, 0.27)):
        assert z_score(value, truth).abs() < 3
    close(terms.sites["z"].log_q[0], dist.Bernoulli(torch.tensor(0.6)).log_prob(z))
    close(terms.sites["z"].log_p[0], dist.Bernoulli(torch.tensor(0.3)).log_prob(z))
    close(terms.sites["x"].log_p[0], dist.Bernoulli(0.2 + 0.7 * z).log_prob(x))


def test_the_guide_sees_what_was_dreamed_and_not_the_data():
    """Exact to 1e-9: log q is that of the encoder at the dreamed x, and only the guide is differentiated."""
    built = build(MLP_VAE)
    terms = built.dream(bits(9))
    x, z = terms.sites["x"].value, terms.sites["z"].value
    assert not x.requires_grad
    assert not z.requires_grad
    loc, raw = built.guide.encoder(x).chunk(2, -1)
    found = log_guide(terms)
    close(found, dist.Normal(loc, raw.exp()).to_event(1).log_prob(z).unsqueeze(0))
    assert not torch.equal(x, bits(9)["x"])
    grads = torch.autograd.grad(found.sum(), list(built.parameters()), allow_unused=True)
    for (name, _), grad in zip(built.named_parameters(), grads, strict=True):
        assert (grad is not None) == name.startswith("guide."), name


def test_conditions_are_given_through():
    """Exact to 1e-9: a label chooses what is dreamed, and the guide is told the same."""
    module, built, batch = make("conditional_two_layer:PAIR")
    batch = module.data(60)
    with torch.no_grad():
        built.model.shift0.weight.copy_(100.0 * torch.arange(3.0).unsqueeze(-1).expand(3, 4))
    terms = built.dream(batch)
    assert (terms.sites["x"].value.mean(-1) / 100).round().long().tolist() == batch["y"].tolist()
    guide = pyro.poutine.trace(
        pyro.poutine.condition(built.run_guide, {name: terms.sites[name].value for name in ("z1", "z2")})
    )
    with built.local():
        trace = guide.get_trace(x=terms.sites["x"].value, y=batch["y"])
    trace.compute_log_prob()
    wanted = sum(trace.nodes[name]["log_prob"] for name in ("z1", "z2"))
    close(log_guide(terms)[0], wanted)
    learned = list(built.model.parameters())  # its latents are drawn by scales and locations that it learns
    assert set(torch.autograd.grad(log_guide(terms).sum(), learned, allow_unused=True)) == {None}


def test_lengths_and_mask_are_given_through_and_rows_come_first():
    """Twelve sequences of five tokens, in a plate of time left of the data: the unreal are not scored."""
    module, built, batch = make("sequence:PAIR")
    terms = built.dream(batch)
    real = module.real(12, batch["lengths"], batch["mask"])
    assert terms.sites["x"].value.shape == (5, 12)
    assert terms.sites["s"].value.shape == (5, 12)
    x = terms.sites["x"].value.T  # as the data have it
    with built.local():
        again = pyro.poutine.trace(
            pyro.poutine.condition(built.run_guide, {n: terms.sites[n].value for n in ("z", "s")})
        ).get_trace(x=x, lengths=batch["lengths"], mask=batch["mask"])
    q = again.nodes["s"]["fn"].log_prob(terms.sites["s"].value)
    close(terms.sites["s"].log_q[0], (q * real).sum(0))
    assert log_guide(terms).shape == (1, 12)


def test_the_model_is_told_them_while_it_dreams():
    def model(x=None, *, lengths=None, mask=None, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + 1000.0 * lengths + 100_000.0 * mask, 1.0), obs=x)

    def guide(x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0 * x, 1.0))

    batch = {
        "x": torch.zeros(4),
        "lengths": torch.tensor([1, 2, 3, 4]),
        "mask": torch.tensor([0, 1, 1, 0]) > 0,
    }
    x = build(Pair(model=model, guide=guide, data=None)).dream(batch).inputs["x"]
    assert (x / 1000).round().tolist() == [1.0, 102.0, 103.0, 4.0]


def test_as_many_rows_as_tokens_are_no_transposed_dream():
    """With B = T a transposed x would fit by its shape."""
    module, built, _ = make("sequence:PAIR")
    batch = module.data(5)
    with torch.no_grad():
        built.model.position.copy_(1000.0 * torch.eye(4)[torch.tensor([0, 1, 2, 3, 0])].unsqueeze(1))
    terms = built.dream({"x": batch["x"]})
    assert terms.inputs["x"].tolist() == [[0, 1, 2, 3, 0]] * 5


def test_what_the_model_sums_out_is_dreamed_and_then_summed_out():
    _, built, batch = make("mixture:PAIR")
    terms = built.dream(batch)
    assert terms.sites["c"].how == "enumerate"
    close(log_guide(terms)[0], terms.sites["z"].log_q[0])


def test_one_seed_one_dream():
    built = build(MLP_VAE)
    torch.manual_seed(3)
    first = built.dream(bits(4)).inputs["x"]
    torch.manual_seed(3)
    assert torch.equal(first, built.dream(bits(4)).inputs["x"])


# What cannot be dreamed.


def dream(model, guide=nothing, observed=("x",), **options):
    build(Pair(model=model, guide=guide, data=None, observed=observed, **options)).dream(ones(4))


def test_refuses_what_cannot_be_dreamed():
    def without_n(x=None):
        with pyro.plate("data", 1 if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def needs_x(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def takes_none(x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def shared(x=None, *, n=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def factor(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            pyro.factor("x", torch.zeros(4))

    def wide(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            seen = None if x is None else x.unsqueeze(-1).expand(-1, 3)
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=seen)

    for model, why in (
        (without_n, "dreamed 1 rows instead of 4: let it draw n data where x is None"),
        (needs_x, "the model cannot dream"),
        (takes_none, "the model cannot dream"),
        (shared, "latent 'w' is shared by all data"),
        (factor, "does not draw 'x' when it is None"),
        (wide, r"shape \(4, 3\), rows first, but the data have \(4,\)"),
    ):
        with pytest.raises(PairError, match=why):
            dream(model)
    with pytest.raises(PairError, match=r"list those fields in Pair\(observed=\)"):
        dream(gaussian_model, observed=())


def test_refuses_a_guide_without_a_density_at_the_dream():
    class Auxiliary(BernoulliGuide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Bernoulli(logits=self.logit))
                pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    class Wide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(3))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))

    class Point(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Delta(self.loc.expand(len(x))))

    with pytest.raises(PairError, match="'a' of the guide is not in the model"):
        dream(bernoulli_model, Auxiliary)
    with pytest.raises(PairError, match=r"'z' has shape \(4,\) in a dream and \(4, 3\) in the guide"):
        dream(gaussian_model, Wide)
    with pytest.raises(PairError, match="relaxation or a point"):
        refuse_without_density(build(Pair(model=gaussian_model, guide=Point, data=None)).dream(ones(4)))
    with pytest.raises(PairError, match="the guide enumerates 'z'"):
        refuse_without_density(bernoulli_toy(how="enumerate").score(ones(4)))

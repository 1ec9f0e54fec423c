"""The parts of the rate: against closed forms of Gaussian data, against plain sums, and what is refused."""

import math
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae import registry
from ppvae.build import build
from ppvae.data import Dataset, Split, load
from ppvae.evaluation import evaluating
from ppvae.evaluation.information import information, information_summary
from ppvae.evaluation.means import batches
from ppvae.pair import Pair
from tests.toys import MLP_VAE, bernoulli_toy, bits

CHUNKS = sys.modules["ppvae.evaluation.information"]
PROOFS = Path(__file__).parents[1] / "proof_pairs"


def model(x=None, *, n=None):
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Shrunk(nn.Module):
    """q(z | x) = N(a x, s^2 I), or a multivariate normal that is the same."""

    def __init__(self, model=None, factor: float = 0.8, scale: float = 0.6, dense: bool = False):
        super().__init__()
        self.factor, self.scale, self.dense = nn.Parameter(torch.tensor(factor)), scale, dense

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            if self.dense:
                q = dist.MultivariateNormal(self.factor * x, scale_tril=self.scale * torch.eye(2))
            else:
                q = dist.Normal(self.factor * x, self.scale).to_event(1)
            pyro.sample("z", q)


def gaussian(n, correlation=0.0, **options):
    """The pair and n data x ~ N(0, [[1, r], [r, 1]]), seed 0."""
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.stack([noise[:, 0], correlation * noise[:, 0] + (1 - correlation**2) ** 0.5 * noise[:, 1]], 1)
    split = Split({"x": x})
    built = build(Pair(model=model, guide=Shrunk, data=None), Dataset(name="g", train=split), **options)
    return built.double(), split


def test_gaussian_data_have_closed_forms(float64):
    """q(z) = N(0, a^2 Sigma + s^2 I) for x ~ N(0, Sigma): each part within 3 standard errors of it and 0.04
    for n = 3,000 data, of which the bounds on the information lie on their own sides (seed 0)."""
    a, s, r = 0.8, 0.6, 0.7
    built, split = gaussian(3000, r, factor=a, scale=s)
    found, reasons = information(built, split, seed=1)
    assert reasons == {}
    results = information_summary(found["z"])
    cov = a**2 * torch.tensor([[1.0, r], [r, 1.0]]) + s**2 * torch.eye(2)
    variance = a**2 + s**2
    wanted = {
        "mutual_information": 0.5 * float(cov.logdet()) - 2 * math.log(s),
        "total_correlation": 0.5 * (2 * math.log(variance) - float(cov.logdet())),
        "dimension_kl": 2 * 0.5 * (variance - 1 - math.log(variance)),
    }
    wanted["marginal_kl"] = wanted["total_correlation"] + wanted["dimension_kl"]
    wanted["rate"] = wanted["mutual_information"] + wanted["marginal_kl"]
    for name, value in wanted.items():
        assert results[name] == pytest.approx(value, abs=3 * results[f"{name}_stderr"] + 0.04), name
    assert results["mutual_information"] < wanted["mutual_information"] + 3 * results["rate_stderr"]
    upper, error = results["mutual_information_upper"], results["mutual_information_upper_stderr"]
    assert wanted["mutual_information"] - 3 * error < upper < wanted["mutual_information"] + 3 * error + 0.04
    assert wanted["total_correlation"] > 0.1  # there is something to find
    assert wanted["mutual_information"] > 0.9


def test_the_parts_add_up_to_the_rate(float64):
    """Draw by draw to 1e-9: I + TC + sum_d KL, I + marginal KL; and the rate is the evaluator's kind."""
    built = build(MLP_VAE, Dataset(name="b", train=Split(bits(60)))).double()
    split = Split(bits(60))
    parts = information(built, split, seed=3, rows=13)[0]["z"]
    assert parts.total_correlation is not None
    assert parts.dimension_kl is not None
    assert parts.dimension_kl.shape == (60, 2)
    total = parts.mutual_information + parts.total_correlation + parts.dimension_kl.sum(1)
    torch.testing.assert_close(total, parts.rate, rtol=0, atol=1e-9)
    torch.testing.assert_close(parts.mutual_information + parts.marginal_kl, parts.rate, rtol=0, atol=1e-9)
    with evaluating(built, 3):
        terms = [built.score(batch, 1) for batch in batches(built, split, 13)]
        rate = torch.cat([-t.log_ratio[0] for t in terms])
    torch.testing.assert_close(parts.rate, rate, rtol=0, atol=1e-12)


@pytest.mark.parametrize("elements", [1, 100, 2**20])
@pytest.mark.parametrize("rows", [7, 512])
def test_the_aggregate_is_the_plain_sum(rows, elements, monkeypatch, float64):
    """Against n^2 densities in a loop, to 1e-9, in whatever chunks."""
    monkeypatch.setattr(CHUNKS, "CHUNK_ELEMENTS", elements)
    built, split = gaussian(20, 0.5)
    parts = information(built, split, seed=2, rows=rows)[0]["z"]
    with evaluating(built, 2):
        z = torch.cat([built.score(batch, 1).sites["z"].value for batch in batches(built, split, rows)])
    assert parts.dimension_kl is not None
    x, n = split.fields["x"], 20
    each = [[dist.Normal(0.8 * x[j], 0.6).log_prob(z[i]) for j in range(n)] for i in range(n)]
    for i in range(n):
        joint = torch.stack([each[i][j].sum() for j in range(n)])
        own = joint[i]
        others = joint[torch.arange(n) != i]
        assert float(parts.mutual_information[i]) == pytest.approx(
            float(own - joint.logsumexp(0) + math.log(n)), abs=1e-9
        )
        assert float(parts.mutual_information_upper[i]) == pytest.approx(
            float(own - others.logsumexp(0) + math.log(n - 1)), abs=1e-9
        )
        singles = torch.stack(each[i]).logsumexp(0) - math.log(n)
        torch.testing.assert_close(
            parts.dimension_kl[i], singles - dist.Normal(0.0, 1.0).log_prob(z[i]), rtol=0, atol=1e-9
        )


def test_a_guide_that_ignores_the_data_carries_nothing(float64):
    """I = 0 from both sides and TC = 0 to 1e-9, draw by draw: q(z) is q(z | x)."""
    built, split = gaussian(40, 0.9, factor=0.0)
    parts = information(built, split)[0]["z"]
    for values in (parts.mutual_information, parts.mutual_information_upper, parts.total_correlation):
        torch.testing.assert_close(values, torch.zeros(40), rtol=0, atol=1e-9)


def test_data_apart_carry_log_n_and_leave_the_rest_open(float64):
    """Each datum in a region of its own: I = log n exactly, and its upper bound is far above the rate."""
    built, split = gaussian(30, factor=100.0, scale=0.001)
    parts = information(built, split)[0]["z"]
    torch.testing.assert_close(parts.mutual_information, torch.full((30,), math.log(30)), rtol=0, atol=1e-9)
    assert (parts.mutual_information_upper > parts.rate).all()


def test_a_guide_that_is_no_product_has_no_correlation_told_apart(float64):
    """A dense normal: the same information to 1e-9, and the marginal KL whole."""
    one, two = gaussian(50, 0.5), gaussian(50, 0.5, dense=True)
    product, dense = (information(*pair, seed=4)[0]["z"] for pair in (one, two))
    torch.testing.assert_close(dense.mutual_information, product.mutual_information, rtol=0, atol=1e-9)
    assert dense.total_correlation is dense.dimension_kl is None
    results = information_summary(dense)
    assert results["total_correlation"] is results["dimension_kl"] is results["dimension_kl_each"] is None
    assert math.isfinite(results["marginal_kl"])


def test_discrete_latents_have_information(float64):
    """z = 1 with probability .6 whatever x: I = 0; and a deterministic guide tells the entropy of its
    answers."""
    split = Split({"x": torch.tensor([0.0, 1.0, 1.0, 1.0])})
    parts = information(bernoulli_toy(), split)[0]["z"]
    torch.testing.assert_close(parts.mutual_information, torch.zeros(4), rtol=0, atol=1e-9)

    class Told(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.sharp = nn.Parameter(torch.tensor(60.0))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Bernoulli(logits=self.sharp * (2 * x - 1)))

    parts = information(bernoulli_toy(Told), split)[0]["z"]
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(parts.mutual_information.mean()) == pytest.approx(entropy, abs=1e-9)


# ---- what is refused


def of_proof(name, attribute="PAIR"):
    pair = registry.find(f"{PROOFS / name}.py:{attribute}")
    data = sys.modules[pair.model.__module__].data()  # type: ignore[union-attr]
    split = Split(data)
    return information(build(pair, Dataset(name=name, train=split)), split)


def test_the_reasons():
    found, reasons = of_proof("conditional_two_layer")
    assert found == {}
    assert "its prior is not the same for all data" in reasons["z1"]
    assert "its guide depends on draws of other latents" in reasons["z2"]
    found, reasons = of_proof("sequence")
    assert set(found) == {"z"}
    assert "has further dimensions" in reasons["s"]
    found, reasons = of_proof("mixture")
    assert "summed out" in reasons["c"]
    assert of_proof("regression")[1] == {"w": "it is not of one datum"}


def test_one_datum_has_no_aggregate():
    built, split = gaussian(1)
    assert information(built, split) == ({}, {"z": "one datum has no aggregate: evaluate 2 or more"})


def test_a_masked_latent_is_refused():
    class Masked(Shrunk):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1), pyro.poutine.mask(mask=x[:, 0] > 0):
                pyro.sample("z", dist.Normal(self.factor * x, self.scale).to_event(1))

    _, split = gaussian(20)
    built = build(Pair(model=model, guide=Masked, data=None), Dataset(name="g", train=split)).double()
    assert information(built, split)[1] == {"z": "its guide is masked or scaled"}


def test_a_trained_kind_of_pair_on_its_data(float64):
    """The built-in exact guide of ppca: its information is a half log-determinant ratio, between the two
    bounds up to 3 standard errors and 0.05."""
    data = load("ppca_toy")
    built = build(registry.find("ppca"), data)
    results = information_summary(information(built, data.train)[0]["z"])
    with torch.no_grad():
        q = built.model.posterior(data.train.fields["x"])  # type: ignore[union-attr]
    within = q.covariance_matrix.reshape(-1, 3, 3)[0]
    wanted = 0.5 * float((torch.cov(q.loc.T) + within).logdet() - within.logdet())
    error = 3 * results["mutual_information_upper_stderr"] + 0.05
    assert results["mutual_information"] - error < wanted < results["mutual_information_upper"] + error


def test_nothing_is_left_changed():
    built, split = gaussian(20)
    built.train()
    state = torch.get_rng_state()
    information(built, split)
    assert built.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in built.parameters())

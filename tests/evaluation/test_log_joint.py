"""log p(x, u) over real numbers: against closed forms, quadrature and what scoring says, and what is
refused."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import transforms
from torch import nn

from ppvae import registry
from ppvae.build import build
from ppvae.data.dataset import Dataset, Split
from ppvae.errors import PairError, UsageError
from ppvae.evaluation.log_joint import LogJoint
from ppvae.evaluation.means import evaluating
from ppvae.pair import Pair
from tests.evaluation.exact import drawn, linear
from tests.toys import MLP, MLP_VAE, Encoder, bits, dataset

TESTS = Path(__file__).parent.parent
HIERARCHIES = ["proof_pairs/conditional_two_layer.py:PAIR", "proof_pairs/sequence.py:PAIR"]
PLACES = [
    *HIERARCHIES,
    "sound_pairs/hierarchical.py",
    "sound_pairs/inner_plate.py",
    "sound_pairs/missing_values_masked.py",
    "sound_pairs/low_rank_guide.py",
    "sound_pairs/lognormal_guide_for_gamma_prior.py",
    "sound_pairs/dirichlet_latent.py",
    "sound_pairs/labels_scored_beside_data.py",
    "sound_pairs/mixture_enumerated.py",
    "sound_pairs/plain_functions_with_params.py",
]


def found(place: str):
    """A pair of the tests with its data, in the type of the test."""
    pair = registry.find(f"{TESTS / place}")
    batch = sys.modules[getattr(pair.model, "__module__")].data()  # noqa: B009
    batch = {n: v.to(torch.get_default_dtype()) if v.is_floating_point() else v for n, v in batch.items()}
    return build(pair, Dataset(name="t", train=Split(batch)) if batch else None), batch


# ---- values


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("chains", [1, 4])
def test_ppca_in_closed_form(start, chains):
    """Values and gradients of both densities, to 1e-9."""
    built = linear("ppca_mean_field")
    batch = drawn(built, 7)
    model, guide = built.model, built.guide
    with evaluating(built, 0):
        joint = LogJoint(built, batch, chains, start)
        assert (joint.shape, joint.size, joint.names) == ((chains, 7), 3, ("z",))
        u = 2 * torch.randn(chains, 7, 3)
        point = joint.point(u)
        error = batch["x"] - u @ model.weight.T - model.mean
        prior = dist.Normal(0.0, 1.0).log_prob(u).sum(-1)
        log_p = prior + dist.Normal(0.0, model.scale).log_prob(error).sum(-1)
        loc = guide.encoder(batch["x"])
        first = dist.Normal(loc, guide.scale).log_prob(u).sum(-1) if start == "guide" else prior
        torch.testing.assert_close(point.log_densities, torch.stack([first, log_p]), rtol=0, atol=1e-9)
        torch.testing.assert_close(joint.log_joint(u), log_p, rtol=0, atol=1e-9)
        slope = error @ model.weight / model.scale**2 - u
        first = (loc - u) / guide.scale**2 if start == "guide" else -u
        torch.testing.assert_close(point.gradients, torch.stack([first, slope]), rtol=0, atol=1e-9)
        assert torch.equal(point.position, u)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("chains", [1, 3])
def test_what_scoring_says_at_the_guides_own_draws(place, chains):
    """log p(x, u) - log q(u) is the log-weight, whatever supports, plates, masks and sums there are; both
    start modes agree about log p(x, u); to 1e-8."""
    built, batch = found(place)
    with evaluating(built, 0):
        joint = LogJoint(built, batch, chains)
        state = torch.get_rng_state()
        u = joint.draw()
        torch.set_rng_state(state)
        terms = built.score(batch, chains)
        log_q, log_p = joint.log_densities(u)
        torch.testing.assert_close(log_p - log_q, terms.log_weight, rtol=1e-9, atol=1e-8)
        other = LogJoint(built, batch, chains, "prior")
        assert other.names == joint.names
        torch.testing.assert_close(other.log_densities(u)[1], log_p, rtol=1e-9, atol=1e-8)
        torch.testing.assert_close(joint.log_joint(u), log_p, rtol=1e-9, atol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("place", PLACES)
def test_from_the_prior_the_difference_is_the_log_likelihood(place):
    """That of the model's own trace at the same latents, summed over the data, to 1e-7."""
    built, batch = found(place)
    if built.enumerated:
        pytest.skip("a trace sums nothing out")
    with evaluating(built, 0), built.local():
        joint = LogJoint(built, batch, 1, "prior")
        trace: Any = poutine.trace(poutine.uncondition(built.run_model)).get_trace(**joint.batch)
        values = {name: trace.nodes[name]["value"] for name in joint.names}
        given: Any = poutine.trace(poutine.condition(built.run_model, data=values)).get_trace(**joint.batch)
        given.compute_log_prob()
        seen = sum(given.nodes[name]["log_prob_sum"] for name in built.pair.observed)
        log_prior, log_p = joint.log_densities(joint.unconstrained(values))
    torch.testing.assert_close((log_p - log_prior).sum(), seen, rtol=1e-9, atol=1e-7)


def scalar(prior, likelihood, q):
    """A pair of one latent number."""

    def model(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", prior())
            return pyro.sample("x", likelihood(z), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.nothing = nn.Parameter(torch.zeros(()))

        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", q())

    return build(Pair(model=model, guide=Guide, data=None))


def one(value: float) -> torch.Tensor:
    return torch.tensor(value)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("built", "x", "log_p"),
    [
        # Gamma(2, 1) and Poisson: p(x) = (x + 1) / 2^(x + 2).
        (lambda: scalar(lambda: dist.Gamma(one(2.0), 1.0), dist.Poisson, lambda: dist.Gamma(one(2.0), 1.0)),
         3.0, math.log(4 / 32)),
        # Beta(2, 3) and Bernoulli: p(1) = 2 / 5.
        (lambda: scalar(lambda: dist.Beta(one(2.0), 3.0), dist.Bernoulli, lambda: dist.Beta(one(1.0), 1.0)),
         1.0, math.log(0.4)),
        # Uniform(-1, 3) and N(z, 1): (Phi(3 - x) - Phi(-1 - x)) / 4.
        (lambda: scalar(lambda: dist.Uniform(one(-1.0), 3.0), lambda z: dist.Normal(z, 1.0),
                        lambda: dist.Uniform(one(-1.0), 3.0)), 0.5,
         math.log((0.5 * math.erf(2.5 / math.sqrt(2)) - 0.5 * math.erf(-1.5 / math.sqrt(2))) / 4)),
    ],
    ids=["positive", "unit_interval", "interval"],
)  # fmt: skip
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_it_integrates_to_the_evidence(built, x, log_p, start):
    """int p(x, u) du = p(x) and int f_0(u) du = 1, which holds with the Jacobian alone; by the trapezoid
    rule, to 1e-6."""
    built = built()
    u = torch.linspace(-40, 40, 80_001).reshape(-1, 1, 1)
    with evaluating(built, 0):
        joint = LogJoint(built, {"x": torch.full((1,), x)}, len(u), start)
        log_first, log_joint = joint.log_densities(u)
    step = math.log(80 / 80_000)
    assert float(log_joint.logsumexp(0) + step) == pytest.approx(log_p, abs=1e-6)
    assert float(log_first.logsumexp(0) + step) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("attribute", ["PAIR", "IN_GUIDE"])
def test_what_the_model_enumerates_is_summed_out(attribute):
    """log sum_c p(c) p(z | c) p(x | z, c), and the prior sum_c p(c) p(z | c), by hand, to 1e-9."""
    built, batch = found(f"proof_pairs/mixture.py:{attribute}")
    model = built.model
    with evaluating(built, 0):
        joint = LogJoint(built, batch, 5, "prior")
        u = torch.randn(5, 16, 2)
        c = model.logits.log_softmax(-1)
        z = dist.Normal(model.loc, model.raw_scale.exp()).log_prob(u.unsqueeze(-2)).sum(-1)
        loc = model.out(u).unsqueeze(-2) + model.shift
        x = dist.Normal(loc, 0.5).log_prob(batch["x"].unsqueeze(-2)).sum(-1)
        log_prior, log_joint = joint.log_densities(u)
        torch.testing.assert_close(log_prior, (c + z).logsumexp(-1), rtol=0, atol=1e-9)
        torch.testing.assert_close(log_joint, (c + z + x).logsumexp(-1), rtol=0, atol=1e-9)
        torch.testing.assert_close(joint.log_joint(u), log_joint, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_chains_among_the_rows_are_chains_beside_them(start):
    """Pair(vectorize=False) repeats the batch in place of a plate: the same numbers, to 1e-12."""
    results = []
    for vectorize in (True, False):
        pair = Pair(model=MLP, guide=Encoder, data=None, vectorize=vectorize)
        built, batch = build(pair, dataset(bits())), bits()
        with evaluating(built, 0):
            joint = LogJoint(built, batch, 4, start)
            torch.manual_seed(3)
            u = torch.randn(4, 7, 2)
            values = {"z": u[:, :, :]}
            torch.testing.assert_close(joint.unconstrained(values), u, rtol=0, atol=0)
            results.append(joint.point(u))
            assert joint.draw().shape == (4, 7, 2)
    for one_way, other in zip(*results, strict=True):
        torch.testing.assert_close(one_way, other, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("place", ["sound_pairs/inner_plate.py", "proof_pairs/sequence.py:PAIR"])
def test_latents_in_an_inner_plate_keep_their_places(place, vectorize):
    """One chain's coordinates put into all chains, or given with them, come back as they were."""
    pair = registry.find(f"{TESTS / place}")
    batch = sys.modules[getattr(pair.model, "__module__")].data()  # noqa: B009
    pair = dataclasses.replace(pair, vectorize=vectorize)
    built = build(pair, Dataset(name="t", train=Split(batch)))
    with evaluating(built, 0), built.local():
        single: Any = poutine.trace(built.run_guide).get_trace(**built.inputs(batch))
        joint, alone = LogJoint(built, batch, 3), LogJoint(built, batch, 1)
        values = {name: single.nodes[name]["value"] for name in joint.names}
        shared = joint.unconstrained(values)
        torch.testing.assert_close(shared, alone.unconstrained(values).expand(3, -1, -1), rtol=0, atol=0)
        stacked = joint.unconstrained({name: torch.stack([v, 2 * v, 3 * v]) for name, v in values.items()})
        factors = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        torch.testing.assert_close(stacked, shared * factors, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            joint.log_joint(stacked)[1:2], alone.log_joint(stacked[1:2]), rtol=1e-9, atol=1e-4
        )


@pytest.mark.usefixtures("float64")
def test_data_and_chains_are_independent_rows():
    """Values and gradients of one datum in one chain are those that it has alone, to 1e-12."""
    built, batch = build(MLP_VAE, dataset(bits())), bits()
    with evaluating(built, 0):
        joint = LogJoint(built, batch, 3)
        u = torch.randn(3, 7, 2)
        whole = joint.point(u)
        alone = LogJoint(built, {"x": batch["x"][4:5]}, 1).point(u[2:3, 4:5])
    torch.testing.assert_close(whole.log_densities[:, 2:3, 4:5], alone.log_densities, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.gradients[:, 2:3, 4:5], alone.gradients, rtol=0, atol=1e-12)


def test_a_model_without_data_is_one_row():
    """The quadratic energy of the undirected pair, at any place, to 1e-6."""
    built, _ = found("proof_pairs/undirected.py:QUADRATIC")
    module = sys.modules[getattr(built.pair.model, "__module__")]  # noqa: B009
    with evaluating(built, 0):
        joint = LogJoint(built, {}, 6)
        u = torch.randn(6, 1, 2)
        a, b = torch.tensor(module.PRECISION), torch.tensor(module.SLOPE)
        energy = -0.5 * ((u @ a) * u).sum(-1) + (b * u).sum(-1)
        torch.testing.assert_close(joint.log_joint(u), energy, rtol=1e-6, atol=1e-6)


def test_it_works_beside_a_batch_norm():
    """In eval mode; a draw of 3 chains and its densities are finite, in the layout of the pair."""
    built, batch = found("sound_pairs/batchnorm_in_encoder.py")
    assert not built.vectorize
    with evaluating(built, 0):
        joint = LogJoint(built, batch, 3)
        point = joint.point(joint.draw())
        assert point.position.shape == (3, 64, 4)
        one_chain = LogJoint(built, batch, 1).log_densities(point.position[1:2])
        torch.testing.assert_close(
            point.log_densities[:, 1], torch.stack(one_chain)[:, 0], rtol=1e-5, atol=1e-4
        )


# ---- what is left as it was, and what is refused


def test_points_carry_no_graph_and_parameters_no_gradient():
    built, batch = build(MLP_VAE, dataset(bits())), bits()
    with built.in_eval_mode():  # with gradients enabled around it
        point = LogJoint(built, batch, 3).point(torch.randn(3, 7, 2))
    assert not any(part.requires_grad for part in point)
    assert all(p.grad is None and p.requires_grad for p in built.parameters())


def test_modules_in_training_mode_are_refused():
    built, batch = found("sound_pairs/batchnorm_in_encoder.py")
    with pytest.raises(PairError, match=r"training mode.*evaluating"):
        LogJoint(built, batch, 2)
    built, batch = found("sound_pairs/dropout_in_encoder.py")
    with pytest.raises(PairError, match="training mode"):
        LogJoint(built, batch, 2)


def real(z):
    return dist.Normal(z, 1.0)


class Bent(nn.Module):
    """A planar flow as the guide, which knows the inverse of its own draws alone."""

    def __init__(self, model=None):
        super().__init__()
        self.flow = transforms.Planar(2)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


@pytest.mark.parametrize(
    ("place", "start", "text"),
    [
        ("proof_pairs/regression.py:PAIR", "guide", "with global latents the weights are joint"),
        ("proof_pairs/regression.py:PAIR", "prior", "with global latents the weights are joint"),
        ("proof_pairs/undirected.py:PAIR", "guide", "'s0' is discrete.*Pair"),
        ("sound_pairs/discrete_latents_by_score.py", "guide", "'z' is discrete.*'enumerate'"),
        ("proof_pairs/mixture.py:IN_GUIDE", "guide", "which the guide enumerates.*start='prior'"),
        ("sound_pairs/mixture_without_guide_sites.py", "guide", "no continuous latent"),
        ("sound_pairs/guide_with_auxiliary_site.py", "guide", "'eps' is in the guide alone.*start='prior'"),
        ("proof_pairs/undirected.py:QUADRATIC", "prior", "nothing can be drawn.*start='guide'"),
    ],
)
def test_what_has_no_chain_is_refused(place, start, text):
    built, batch = found(place)
    with evaluating(built, 0), pytest.raises(PairError, match=text):
        LogJoint(built, batch, 2, start)


@pytest.mark.parametrize(
    ("prior", "q", "text"),
    [
        (lambda: dist.VonMises(one(0.0), 1.0), lambda: dist.VonMises(one(0.0), 1.0), "'z' is an angle"),
        (lambda: dist.Normal(one(0.0), 1.0), lambda: dist.Delta(one(0.3)), "is a point.*start='prior'"),
        (lambda: dist.Delta(one(0.3)), lambda: dist.Delta(one(0.3)), "a Delta in the model"),
        (
            lambda: dist.Uniform(one(0.0), torch.arange(1.0, 4.0)),
            lambda: dist.Uniform(one(0.0), 1.0),
            "bounds that are not the same",
        ),
    ],
    ids=["circle", "point_guide", "point_prior", "moving_bounds"],
)
def test_odd_latents_are_refused(prior, q, text):
    with torch.random.fork_rng():
        built = scalar(prior, real, q)
        with evaluating(built, 0), pytest.raises(PairError, match=text):
            LogJoint(built, {"x": torch.ones(3)}, 2)


def test_a_flow_without_an_inverse_starts_at_the_prior():
    def model(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    built = build(Pair(model=model, guide=Bent, data=None))
    batch = {"x": torch.ones(3)}
    with evaluating(built, 0):
        with pytest.raises(PairError, match=r"a value that the guide did not draw.*start='prior'"):
            LogJoint(built, batch, 2)
        joint = LogJoint(built, batch, 2, "prior")
        assert joint.draw().shape == (2, 3, 2)


def test_scales_and_pairs_without_a_bound_are_refused():
    def model(x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1), poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    built = build(Pair(model=model, guide=guide, data=None))
    with evaluating(built, 0), pytest.raises(PairError, match="cannot take the scale of site"):
        LogJoint(built, {"x": torch.ones(3)}, 2, "prior")
    built = build(registry.find("autoencoder"), x_shape=(6,), latent=2, hidden=[5])
    with evaluating(built, 0), pytest.raises(PairError, match="no bound on log p"):
        LogJoint(built, bits(), 2)


def test_options_are_checked():
    built, batch = build(MLP_VAE, dataset(bits())), bits()
    with pytest.raises(UsageError, match="start='posterior'"):
        LogJoint(built, batch, 2, "posterior")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="chains=0: use at least 1"):
        LogJoint(built, batch, 0)

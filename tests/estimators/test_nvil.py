"""NVIL: baselines that change no mean, signals that hold what they must and nothing else."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import io

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from ppvae.build import build
from ppvae.errors import PairError, UsageError
from ppvae.estimators import ELBO, NVIL, AsPyro, find, spelled
from ppvae.estimators.gradients import group_gradients
from ppvae.estimators.nvil import signal
from ppvae.pair import Pair
from ppvae.training import fit
from tests.estimators.discrete_toys import BIT, Layers, Ordered, codes, components, layers, onehots, rows
from tests.estimators.every_draw import Noise, assert_unbiased, moments
from tests.toys import MLP_VAE, assert_same, bernoulli_toy, bits, loss_and_gradients, ones

pytestmark = pytest.mark.usefixtures("float64")


def disturbed(built, batch, **options):
    """An NVIL whose baselines say anything at all."""
    estimator = NVIL(**options)
    estimator.prepare(built, batch)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in [*estimator.parameters(), estimator.running_mean]:
            value.copy_(2 * torch.randn(value.shape, generator=generator))
    return estimator


@pytest.mark.parametrize("particles", [1, 2])
def test_no_baseline_changes_the_mean(particles):
    """Exact to 1e-9 over every draw, new and with baselines that say anything: the toy, three layers in every
    order, categories, and z | c beside c."""
    for make in (NVIL, lambda k: None):
        for built, batch, supports in (
            (bernoulli_toy(), ones(1), {"z": BIT}),
            (codes("onehot"), rows(1), {"z": onehots(1, 3)[:, 0]}),
            (components(), rows(1, 1), {"c": onehots(1, 3)[:, 0], "z": Noise(torch.tensor([-0.8, 1.1]))}),
        ):
            estimator = make(particles) or disturbed(built, batch, particles=particles)
            assert_unbiased(estimator, built, batch, **supports)


@pytest.mark.parametrize("order", ["downward", "upward", "mixed"])
def test_no_signal_lacks_what_it_needs(order):
    """Exact to 1e-9 over every draw of three dependent bits, whatever the order of guide and model."""
    built, batch = layers(order), rows(1)
    assert_unbiased(disturbed(built, batch), built, batch, z1=BIT, z2=BIT, z3=BIT)


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        # name: (latents whose log p is in its signal, latents whose log q is)
        ("downward", {"z3": ("123", "123"), "z2": ("12", "12"), "z1": ("1", "1")}),
        ("upward", {"z1": ("123", "123"), "z2": ("123", "23"), "z3": ("123", "3")}),
        ("mixed", {"z2": ("123", "123"), "z3": ("123", "13"), "z1": ("1", "1")}),
    ],
)
def test_a_signal_holds_the_terms_that_can_depend_on_the_latent(order, wanted):
    terms = layers(order).score(rows(), 4)
    for name, (ps, qs) in wanted.items():
        total = terms.log_likelihood.clone()
        for i in ps:
            total = total + terms.sites[f"z{i}"].log_p
        for i in qs:
            total = total - terms.sites[f"z{i}"].log_q
        torch.testing.assert_close(signal(terms.sites[name], terms), total.detach(), rtol=1e-9, atol=1e-9)
        assert not signal(terms.sites[name], terms).requires_grad


def test_nothing_is_dropped_beside_a_sum():
    """A latent that is summed out connects all terms."""
    built = build(Pair(model=layers().model.__class__, guide=_NoTop, data=None, discrete={"z3": "enumerate"}))
    terms = built.score(rows(), 2)
    for name in ("z1", "z2"):
        torch.testing.assert_close(signal(terms.sites[name], terms), terms.log_weight.detach())
    assert_unbiased(disturbed(built, rows(1)), built, rows(1), z1=BIT, z2=BIT)


class _NoTop(nn.Module):
    def __init__(self, model=None):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.5]))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Bernoulli(logits=self.weight[0] * x[:, 0]))
            pyro.sample("z2", dist.Bernoulli(logits=self.weight[1] + z1))


def trained(built, batch, steps=200, **options):
    """An NVIL that has seen the pair; the pair itself stands still."""
    estimator = NVIL(**options)
    estimator.prepare(built, batch)
    optimizer = torch.optim.Adam(estimator.parameters(), 0.02)
    torch.manual_seed(0)
    for _ in range(steps):
        objective = estimator.estimate(built, batch)
        found = {id(p): g for p, g in group_gradients(objective, built, estimator)}
        for p in estimator.parameters():
            p.grad = found[id(p)]
        optimizer.step()
    return estimator


def test_the_baseline_lowers_the_variance_and_not_the_mean():
    """Exactly, on the toy: from .216279 by more than a hundred times."""
    built = bernoulli_toy()
    plain = moments(NVIL(), built, ones(1), z=BIT)
    learned = moments(trained(built, ones(64)), built, ones(1), z=BIT)
    assert plain.variance["guide.logit"].item() == pytest.approx(0.216279, abs=1e-6)
    assert learned.variance["guide.logit"] < 0.01 * plain.variance["guide.logit"]
    assert_same(learned.gradient, plain.gradient)


def test_the_net_learns_what_the_mean_does_not_know():
    """Two data of very different signals: a running mean serves neither, the net both."""
    built, batch = bernoulli_toy(), {"x": torch.tensor([1.0, 0.0]).repeat(16)}
    estimator = trained(built, batch, steps=400)
    terms = estimator.score(built, batch, {})
    predicted = estimator._predicted(terms, [terms.sites["z"]])[:, 0] + estimator.running_mean[0]
    for value in (0.0, 1.0):
        of = batch["x"] == value
        q = torch.tensor([0.4, 0.6])
        p = torch.tensor([0.7, 0.3]) * torch.tensor([[0.8, 0.1], [0.2, 0.9]])[int(value)]
        assert predicted[of].mean().item() == pytest.approx((q * (p / q).log()).sum().item(), abs=0.1)


def test_running_figures_are_those_of_the_past():
    """Exact: the first batch is centered by zero; means over the batches so far, then they fade; at rest in
    eval."""
    built, batch = bernoulli_toy(), ones(8)
    estimator = NVIL(decay=0.75)
    signals = []
    for i in range(6):
        torch.manual_seed(i)
        estimator.estimate(built, batch)
        torch.manual_seed(i)
        signals.append(signal((terms := estimator.score(built, batch, {})).sites["z"], terms).mean())
    mean = torch.zeros(())
    for i, value in enumerate(signals):
        mean = mean + max(1 / (i + 1), 0.25) * (value - mean)
    torch.testing.assert_close(estimator.running_mean[0], mean)
    assert estimator.batches == 6
    estimator.eval()
    estimator.estimate(built, batch)
    with torch.no_grad():
        estimator.train().estimate(built, batch)
    assert estimator.batches == 6


def test_normalize_divides_by_the_running_deviation_and_says_that_it_is_biased():
    """Exact to 1e-9: the guide's mean gradient over the deviation, where that exceeds one."""
    built = bernoulli_toy()
    assert NVIL(normalize=True).claims.biased == ("guide",)
    assert NVIL().claims.biased == ()
    estimator = NVIL(normalize=True)
    estimator.prepare(built, ones(1))
    wanted = moments(NVIL(), built, ones(1), z=BIT).gradient["guide.logit"]
    for variance, factor in ((9.0, 3.0), (0.25, 1.0)):
        estimator.running_variance.fill_(variance)
        found = moments(estimator, built, ones(1), z=BIT).gradient["guide.logit"]
        torch.testing.assert_close(found, wanted / factor, rtol=1e-9, atol=1e-9)


def test_only_the_baseline_follows_its_loss():
    """Exact: the group `estimator` gets the gradient of the miss, the pair none of it."""
    built, batch = layers(), rows(6)
    estimator = disturbed(built, batch)
    torch.manual_seed(0)
    objective = estimator.estimate(built, batch)
    assert set(objective.losses) == {"all", "estimator"}
    net = list(estimator.parameters())
    for loss, others in (("estimator", list(built.parameters())), ("all", net)):
        of = objective.losses[loss]
        assert set(torch.autograd.grad(of, others, retain_graph=True, allow_unused=True)) == {None}
    found = {id(p): g for p, g in group_gradients(objective, built, estimator)}
    assert all(found[id(p)].abs().sum() > 0 for p in net)


def test_beta_weighs_the_rate_and_free_bits_are_none():
    """Exact to 1e-9 over every draw: the slope of distortion + beta rate."""
    built = bernoulli_toy()
    found = moments(NVIL(beta=0.5), built, ones(1), z=BIT).gradient["guide.logit"]
    logit = built.guide.logit
    q, bit = dist.Bernoulli(logits=logit), BIT.to(logit)
    inside = torch.log(0.2 + 0.7 * bit) + 0.5 * (
        dist.Bernoulli(torch.tensor(0.3)).log_prob(bit) - q.log_prob(bit)
    )
    (wanted,) = torch.autograd.grad(-(q.log_prob(bit).exp() * inside).sum(), logit)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    torch.manual_seed(0)
    plain = NVIL().estimate(built, ones(2)).losses["all"]
    torch.manual_seed(0)
    assert NVIL().estimate(built, ones(2), {"free_bits": torch.tensor(9.0)}).losses["all"] == plain


def test_is_the_elbo_where_all_is_reparameterized():
    loss, found = loss_and_gradients(NVIL(3), build(MLP_VAE), bits(5))
    wanted_loss, wanted = loss_and_gradients(ELBO(3), build(MLP_VAE), bits(5))
    assert loss == wanted_loss
    assert_same(found, wanted)


def test_preparing_takes_no_random_numbers_and_is_done_once():
    built, batch = layers(), rows(4)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = NVIL(), NVIL()
    a.prepare(built, batch)
    torch.manual_seed(9)
    b.prepare(built, batch)
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    net = a.net
    a.prepare(built, batch)
    assert a.net is net
    assert [p.shape[-1] for p in a.net.parameters()][:1] == [2]  # of x alone
    assert a.names == ("z3", "z2", "z1")


def test_what_is_learned_is_saved():
    built, batch = layers(), rows(4)
    estimator = trained(built, batch, steps=3)
    kept = io.BytesIO()
    torch.save(estimator.state_dict(), kept)
    kept.seek(0)
    fresh = NVIL()
    fresh.prepare(built, batch)
    fresh.load_state_dict(torch.load(kept))
    assert fresh.batches == 3
    misses = []
    for e in (estimator, fresh, NVIL()):
        torch.manual_seed(1)
        misses.append(e.estimate(built, batch).losses["estimator"])
    assert misses[0] == misses[1] != misses[2]


def test_a_resumed_run_has_its_baselines(tmp_path):
    """Bit for bit: 10 steps and 10 more are 20."""
    torch.set_default_dtype(torch.float32)
    discrete = dict.fromkeys(("z1", "z2", "z3"), "score")
    pair, x = Pair(model=Layers, guide=Ordered, data=None, discrete=discrete), rows(64)["x"]
    options = {"batch": 16, "save": True, "out": tmp_path, "progress": False}
    straight = fit(pair, x, "nvil:hidden=4", steps=20, **options)
    begun = fit(pair, x, "nvil:hidden=4", steps=10, **options)
    resumed = fit(pair, x, resume=begun.run, steps=20)
    for name, value in straight.built.state_dict().items():
        assert torch.equal(value, resumed.built.state_dict()[name])
        assert not torch.equal(value, begun.built.state_dict()[name])


def test_refuses_with_the_reason():
    def model(x=None):
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self, model=None):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.4))

        def forward(self, x):
            pyro.sample("c", dist.Bernoulli(logits=self.logit))

    with pytest.raises(PairError, match=r"'c' lies outside the data plate: use elbo or reinforce"):
        NVIL()(build(Pair(model=model, guide=Guide, data=None)))(ones(3))
    toy = bernoulli_toy()
    with pytest.raises(PairError, match="which SVI would not train: use ppvae"):
        SVI(toy.run_model, toy.run_guide, pyro.optim.Adam({}), AsPyro(NVIL())).step(x=torch.ones(3))
    estimator = NVIL()
    estimator(toy)(ones(3))
    with pytest.raises(PairError, match=r"was prepared for the latents z .*make a new NVIL"):
        estimator(layers())(rows())
    with pytest.raises(UsageError, match="decay=1"):
        find("nvil:decay=1")


def test_is_found_by_name():
    text = "nvil:particles=2,hidden=20,decay=0.5,normalize=True"
    assert spelled(find("nvil:k=2,hidden=20,decay=0.5,normalize=true")) == text

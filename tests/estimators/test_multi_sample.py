"""What holds for every estimator of reparameterized draws: means without error on a grid of the guide's
noise, weights per datum, one pass of each net, and both ways into Pyro."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportCallIssue=false

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from ppvae import estimators
from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import AsPyro
from ppvae.pair import Pair, penalty
from tests.estimators.quadrature import Exact, Grid, OneLayer, OneLayerGuide, apart, pairs_of
from tests.test_proof_pairs import make
from tests.toys import MLP_VAE, assert_same, bits, gradients, loss_and_gradients

pytestmark = pytest.mark.usefixtures("float64")

NAMES = [
    "stl:k=2",
    "iwae:k=2",
    "iwae_stl:k=2",
    "dreg:k=2",
    "gdreg:k=2",
    "miwae:k=1,groups=2",
    "piwae:k=1,groups=2",
    "ciwae:k=2,share=0.3",
    "renyi:k=2,alpha=0.5",
    "renyi:k=2,alpha=2",
    "renyi:k=2,alpha=-1",
    "cubo:k=2",
    "tvo:k=2,intervals=1",
    "cubo:k=2,against=others",
    "tvo:k=2",
    "tvo:k=2,side=upper",
]
"""Two draws for each datum."""
WEIGHTED = [name for name in NAMES if not name.startswith("stl")]
LAYERS = {1: Grid(60, 2), 2: Grid(16, 2, layers=2)}


@pytest.mark.parametrize(("name", "layers"), pairs_of(NAMES, LAYERS))
def test_mean_value_and_gradient_are_those_of_the_targets(name, layers):
    """To 1e-9 on one layer, 1e-4 on two (as fine as the grid is), for K = 2: the mean of the reported bound
    and the mean gradient of each group are those of its functional. A claimed bias is seen: above .01."""
    estimator = estimators.find(name)
    exact = Exact(LAYERS[layers], layers)
    targets, found = estimator.targets(), exact.climbed(estimator)
    with torch.no_grad():
        log_weight = exact.built.score(exact.batch, 2).log_weight
    wanted = exact.mean(targets["bound"](log_weight))
    assert exact.bound(estimator) == pytest.approx(float(wanted), abs=1e-12)
    for group in ("model", "guide"):
        difference = apart(found, exact.truth(targets[group]), group)
        if group in estimator.claims.biased:
            assert difference > 0.01
        else:
            assert difference < (1e-9 if layers == 1 else 1e-4)


@pytest.mark.parametrize("name", ["dreg", "gdreg", "stl", "piwae:groups=1", "ciwae:share=0.3"])
@pytest.mark.parametrize("particles", [1, 2, 3])
def test_a_weighed_rate_is_right_too(name, particles):
    """To 1e-6, beta = .6: the mean gradient is that of the functional of log p(x | z) - beta rate."""
    estimator = estimators.find(f"{name}{':' if ':' not in name else ','}k={particles},beta=0.6")
    exact = Exact(Grid({1: 60, 2: 60, 3: 30}[particles], particles))
    found = exact.climbed(estimator)
    exact.built.zero_grad()
    terms = exact.built.score(exact.batch, particles)
    value = estimator.targets()["model"](terms.log_likelihood + 0.6 * terms.log_ratio)
    exact.mean(value).backward()
    truth = {name: p.grad.sum() for name, p in exact.built.named_parameters()}
    assert apart(found, truth) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_data_one_by_one(name):
    """Exact to 1e-9 with the guide's noise fixed: bounds follow each other, loss and gradients are means."""
    estimator, noise, x = estimators.find(name), torch.randn(2, 5), torch.randn(5)

    def run(rows):
        pair = Pair(model=OneLayer, guide=OneLayerGuide, data=None)
        built = build(pair, grid=SimpleNamespace(noise=[noise[:, rows]]))
        bound = estimator.estimate(built, {"x": x[rows]}).bound
        loss = estimator(built)({"x": x[rows]})
        loss.backward()
        return bound, loss.detach(), gradients(built)

    bound, loss, found = run(torch.arange(5))
    singles = [run(torch.tensor([b])) for b in range(5)]
    torch.testing.assert_close(bound, torch.cat([s[0] for s in singles]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss, torch.stack([s[1] for s in singles]).mean(), rtol=1e-9, atol=1e-9)
    assert_same({n: sum(s[2][n] for s in singles) / 5 for n in found}, found)


@pytest.mark.parametrize("name", NAMES)
def test_particles_one_after_another_are_those_at_once(name):
    """Exact to 1e-9 with the guide's noise fixed: Pair(vectorize=False) gives value and gradients of one
    vectorized pass. gdreg needs the one pass, and says so."""
    estimator, noise, x = estimators.find(name), torch.randn(2, 3), torch.randn(3)
    at_once = SimpleNamespace(noise=[noise])
    wanted = loss_and_gradients(
        estimator, build(Pair(model=OneLayer, guide=OneLayerGuide, data=None), grid=at_once), {"x": x}
    )

    class Turns(list):
        """The noise of the next particle."""

        def __getitem__(self, layer):
            return self.pop(0)

    in_turn = SimpleNamespace(noise=Turns(noise))
    built = build(Pair(model=OneLayer, guide=OneLayerGuide, data=None, vectorize=False), grid=in_turn)
    if name.startswith("gdreg"):
        with pytest.raises(PairError, match="all particles in one pass"):
            estimator(built)({"x": x})
        return
    loss, found = loss_and_gradients(estimator, built, {"x": x})
    torch.testing.assert_close(loss, wanted[0], rtol=1e-9, atol=1e-9)
    assert_same(found, wanted[1])


@pytest.mark.parametrize("name", NAMES)
def test_each_net_runs_once(name):
    """One pass of the encoder and one of the decoder: path derivatives cost no second one."""
    built, batch, passes = build(MLP_VAE), bits(4), []
    built.model.decoder.register_forward_hook(lambda *_: passes.append("decoder"))
    built.guide.encoder.register_forward_hook(lambda *_: passes.append("encoder"))
    objective = estimators.find(name).estimate(built, batch)
    objective.losses["all"].backward()
    assert sorted(passes) == ["decoder", "encoder"]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_is_needed_for_the_value(name):
    """Exact: without a graph the reported bound and the loss are those with one."""
    built, batch = build(MLP_VAE), bits(4)
    estimator = estimators.find(name)
    torch.manual_seed(0)
    wanted = estimator.estimate(built, batch)
    torch.manual_seed(0)
    with torch.no_grad():
        found = estimator.estimate(built, batch)
    torch.testing.assert_close(found.bound, wanted.bound)
    torch.testing.assert_close(found.losses["all"], wanted.losses["all"].detach())
    assert not wanted.bound.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_serves_a_stock_svi(name):
    """Exact to 1e-9: as the loss of pyro.infer.SVI, value and gradients are ours times the rows."""
    built, batch = build(MLP_VAE), bits(5)
    estimator = estimators.find(name)
    wanted, ours = loss_and_gradients(estimator, built, batch)
    torch.manual_seed(0)
    with built.local():
        value = AsPyro(estimator).loss_and_grads(built.run_model, built.run_guide, **batch)
    assert value == pytest.approx(float(wanted) * 5, rel=1e-9)
    assert_same(gradients(built), ours, 1 / 5)


@pytest.mark.parametrize("name", NAMES)
def test_is_found_again_by_its_text(name):
    estimator = estimators.find(name)
    again = estimators.find(estimators.spelled(estimator))
    assert type(again) is type(estimator)
    assert estimators.spelled(again) == estimators.spelled(estimator)


class Penalized(nn.Module):
    """With a penalty on the draw."""

    def __init__(self, strength: float = 1.0):
        super().__init__()
        self.gain, self.strength = nn.Parameter(torch.tensor(0.7)), strength

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            penalty("size", self.strength * (self.gain * z) ** 2)
            pyro.sample("x", dist.Normal(self.gain * z, 1.0), obs=x)


@pytest.mark.parametrize("name", NAMES)
def test_a_penalty_moves_the_guide_through_its_draws(name):
    """Exact to 1e-9 under one seed: what a penalty on z adds is its own gradient, for model and guide."""
    estimator, batch, noise = estimators.find(name), {"x": torch.randn(3)}, [torch.randn(2, 3)]

    def built(strength):
        pair = Pair(model=Penalized, guide=OneLayerGuide, data=None)
        return build(pair, strength=strength, grid=SimpleNamespace(noise=noise))

    _, free = loss_and_gradients(estimator, built(0.0), batch)
    bound, found = loss_and_gradients(estimator, built(2.5), batch)
    alone = built(2.5)
    value = alone.score(batch, 2).penalties["size"].value
    value.backward()
    assert_same({n: found[n] - free[n] for n in found}, gradients(alone))
    without, _ = loss_and_gradients(estimator, built(0.0), batch)
    torch.testing.assert_close(bound - without, value.detach(), rtol=1e-9, atol=1e-9)


class Images(nn.Module):
    """A guide of base noise and points at its images, whose density may move with the guide, too."""

    def __init__(self, model, moves: bool = True):
        super().__init__()
        self.raw, self.moves = nn.Parameter(torch.tensor(0.3)), moves

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            eps = pyro.sample("eps", dist.Normal(0.0, torch.ones(())), infer={"is_auxiliary": True})
            density = -self.raw.expand(eps.shape) if self.moves else torch.zeros(eps.shape)
            pyro.sample("z", dist.Delta(self.raw.exp() * eps, density))


# What is refused.


@pytest.mark.parametrize("name", ["stl", "dreg", "gdreg", "iwae_stl", "cubo", "tvo"])
def test_a_point_whose_density_moves_has_no_score_of_mean_zero(name):
    """A Delta and a factor: of their part of log q nothing may be left out. piwae leaves nothing out. Nor do
    weighted path derivatives speak of a Delta that moves without a density."""
    batch = {"x": torch.ones(3)}
    with pytest.raises(PairError, match="'z', a Delta whose density moves with the guide"):
        estimators.find(name)(build(Pair(model=Penalized, guide=Images, data=None)))(batch)
    still = build(Pair(model=Penalized, guide=Images, data=None), moves=False)
    if name == "stl":  # which weighs no draw, and is the elbo here
        _, found = loss_and_gradients(estimators.find(name), still, batch)
        _, wanted = loss_and_gradients(estimators.find("elbo"), still, batch)
        assert_same(found, wanted)
    else:
        with pytest.raises(PairError, match=r"'z', a point \(Delta\) that moves"):
            estimators.find(name)(still)(batch)

    class Factor(OneLayerGuide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.loc, 1.0))
                pyro.factor("bonus", self.loc * x, has_rsample=True)

    grid = SimpleNamespace(noise=[torch.randn(2, 3)])
    built = build(Pair(model=Penalized, guide=Factor, data=None), grid=grid)
    with pytest.raises(PairError, match="'bonus', a Unit whose density moves with the guide"):
        estimators.find(f"{name}:k=2")(built)(batch)
    _, found = loss_and_gradients(estimators.find("piwae:k=2,groups=1"), built, batch)
    _, wanted = loss_and_gradients(estimators.find("iwae:k=2"), built, batch)
    assert_same(found, wanted)


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_scale_inside_the_weights_is_refused(name):
    def scaled(x=None, *, n=None):
        with poutine.scale(scale=0.5), pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(torch.zeros(()), 1.0)), 1.0), obs=x)

    built = build(Pair(model=scaled, guide=OneLayerGuide, data=None), grid=LAYERS[1], rows=3)
    built.guide.noise = [torch.randn(2, 3)]
    with pytest.raises(PairError, match="scale of site"):
        estimators.find(name)(built)({"x": torch.randn(3)})


@pytest.mark.parametrize("name", WEIGHTED)
def test_global_latents_have_no_weights_per_datum(name):
    _, built, batch = make("regression:PAIR")
    with pytest.raises(PairError, match="global latents"):
        estimators.find(name)(built)(batch)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("tvo")])
def test_a_discrete_draw_has_no_path(name):
    _, built, batch = make("undirected:PAIR")
    with pytest.raises(PairError, match=r"reparameterized guide.*elbo"):
        estimators.find(name)(built)(batch)


@pytest.mark.parametrize("name", ["stl", "dreg", "gdreg", "iwae_stl", "cubo", "tvo"])
def test_a_relaxed_draw_has_no_score_of_mean_zero(name):
    _, built, batch = make("undirected:PAIR")
    text = ",".join(f"s{i}=gumbel" for i in range(4))
    with pytest.raises(PairError, match="is relaxed"):
        estimators.find(f"{name}:{text}")(built)(batch)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("miwae:groups=0", "at least one group"),
        ("ciwae:share=1.5", "between 0 and 1"),
        ("cubo:order=1", "order above 1"),
        ("cubo:against=none", "all, others"),
        ("cubo:k=1,against=others", "two draws"),
        ("tvo:intervals=0", "at least one interval"),
        ("tvo:spacing=odd", "even, log"),
        ("tvo:first=0.0", "between 0 and 1"),
        ("tvo:side=left", "lower, upper"),
        ("tvo:k=1,side=upper", "two draws"),
        ("mmd:length=0", "positive"),
    ],
)
def test_a_wrong_option_is_named(name, line):
    with pytest.raises(estimators.UsageError, match=line):
        estimators.find(name)


@pytest.mark.parametrize("name", ["dreg", "stl"])
def test_an_autoguides_points_are_functions_of_its_draws(name):
    """Exact to 1e-9: a point at the image of an auxiliary draw, under a transform without parameters, is as
    good as the transformed law itself."""

    def positive(x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Direct(OneLayerGuide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.LogNormal(self.loc, self.log_scale.exp()))

    class Through(OneLayerGuide):
        def forward(self, x, *, n=None):
            with pyro.plate("data", len(x), dim=-1):
                normal = dist.Normal(self.loc, self.log_scale.exp())
                y = pyro.sample("y", normal, infer={"is_auxiliary": True})
                pyro.sample("z", dist.Delta(y.exp(), -y))

    batch, grid = {"x": torch.ones(4)}, SimpleNamespace(noise=[])
    found = [
        loss_and_gradients(
            estimators.find(f"{name}:k=3"), build(Pair(model=positive, guide=g, data=None), grid=grid), batch
        )
        for g in (Direct, Through)
    ]
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-9, atol=1e-9)
    assert_same(found[1][1], found[0][1])

"""Any shape of pair: most are one flat graph, bit-equal to eager; the others stay eager, and say why."""

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae import TrainConfig
from ppvae.build import build
from ppvae.data import load as load_data
from ppvae.engine import EagerStep, GraphStep
from ppvae.estimators import find
from ppvae.pair import Pair
from tests.test_corpus import load
from tests.toys import MLP_VAE, bits

HERE = Path(__file__).parent.parent
PAIRS = sorted([*(HERE / "sound_pairs").glob("*.py"), *(HERE / "proof_pairs").glob("*.py")])

REASONS = {"dirichlet_latent": "a number is read off a tensor"}  # the length of the longest document


def same(
    pair: Pair, data: Any, estimator: str = "elbo", steps: int = 8, equal: Any = torch.equal
) -> GraphStep:
    """Replayed and eager, bit by bit unless `equal` asks for less; returns the graph's step."""
    states, logged = [], []
    ways: list[tuple[type[EagerStep], dict[str, Any]]] = [(EagerStep, {}), (GraphStep, {"compile": False})]
    for kind, options in ways:
        dataset = None if data is None else load_data(data)
        built, made = build(pair, dataset, seed=0), find(estimator)
        built.train()
        batches = {} if dataset is None else dataset.train
        first = {} if dataset is None else dataset.train.batch(torch.arange(min(8, len(dataset.train))))
        torch.manual_seed(3)
        built.score(first)  # a bare pyro.param is made on first use
        made.prepare(built, first)
        read: dict[str, Any] = {} if dataset is None else {"read": dataset.train.batch}
        step = kind(built, made, TrainConfig(lr=0.01), **read, **options)
        torch.manual_seed(4)
        for i in range(steps):
            given = {} if dataset is None else torch.arange(i, i + 8) % len(batches)
            logged.append(step(given, {})["loss"])
        states.append({name: value.clone() for name, value in built.state_dict().items()})
    assert equal(torch.stack(logged[:steps]), torch.stack(logged[steps:]))
    assert all(equal(states[0][name], states[1][name]) for name in states[0])
    assert isinstance(step, GraphStep)
    return step


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_each_pair_of_the_corpus(path):
    module = load(path)
    data = module.data()
    step = same(module.PAIR, data if data else None)
    if path.stem in REASONS:
        assert REASONS[path.stem] in str(step.reason)
    else:
        assert step.reason is None


class Decoder(PyroModule):
    def __init__(self, latent=2, x_shape=(6,)):
        super().__init__()
        self.latent = latent
        self.net = nn.Linear(latent, x_shape[0])

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)


class Recurrent(PyroModule):
    def __init__(self, model, cell):
        super().__init__()
        self.rnn = cell(1, 5, batch_first=True)
        self.head = nn.Linear(5, 2 * model.latent)

    def forward(self, x):
        loc, raw = self.head(self.rnn(x.unsqueeze(-1))[0][:, -1]).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, softplus(raw)).to_event(1))


class LSTM(Recurrent):
    def __init__(self, model):
        super().__init__(model, nn.LSTM)


class GRU(Recurrent):
    def __init__(self, model):
        super().__init__(model, nn.GRU)


class Flow(PyroModule):
    """A base Normal that reads x, and a flow that does not."""

    def __init__(self, model, flow):
        super().__init__()
        self.net = nn.Linear(6, 2 * model.latent)
        self.flow = flow(model.latent)

    def forward(self, x):
        loc, raw = self.net(x).chunk(2, -1)
        base = dist.Normal(loc, softplus(raw)).to_event(1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


class Planar(Flow):
    def __init__(self, model):
        super().__init__(model, transforms.planar)


class InverseAutoregressive(Flow):
    def __init__(self, model):
        super().__init__(model, transforms.affine_autoregressive)


class Coupling(Flow):
    def __init__(self, model):
        super().__init__(model, transforms.affine_coupling)


class Spline(Flow):
    def __init__(self, model):
        super().__init__(model, transforms.spline)


@pytest.mark.parametrize("guide", [GRU, Planar, InverseAutoregressive, Coupling])
@pytest.mark.parametrize("estimator", ["elbo", "iwae:particles=3"])
def test_recurrent_nets_and_flows(guide, estimator):
    assert same(Pair(model=Decoder, guide=guide, data=None), bits(20), estimator).reason is None


@pytest.mark.parametrize("estimator", ["elbo", "iwae:particles=3"])
def test_an_lstm_is_taken_to_pieces(estimator):
    """Eager torch has a kernel for all of it on the CPU, which rounds otherwise: equal within 1e-5."""
    close = lambda a, b: torch.allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    assert same(Pair(model=Decoder, guide=LSTM, data=None), bits(20), estimator, equal=close).reason is None


@pytest.mark.parametrize(
    ("guide", "estimator", "reason"),
    [
        (Spline, "elbo", "shape of a tensor depends on its numbers"),
        (GRU, "pyro:Trace_ELBO", "a number is read off a tensor"),
    ],
)
def test_what_is_no_graph_is_eager_and_says_why(guide, estimator, reason):
    step = same(Pair(model=Decoder, guide=guide, data=None), bits(20), estimator)
    assert step.reason is not None
    assert reason in step.reason


def test_particles_one_after_another():
    """Unrolled into the graph."""
    pair = Pair(model=MLP_VAE.model, guide=MLP_VAE.guide, data=None, vectorize=False)
    assert same(pair, bits(20), "iwae:particles=3").reason is None

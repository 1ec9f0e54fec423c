"""The sigmoid belief network: tiny ones against sums over every state, in float64."""

import dataclasses
import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppvae.build import build
from ppvae.errors import UsageError
from ppvae.estimators import find as find_estimator
from ppvae.guides.sigmoid_belief_network import Mirror
from ppvae.linter import check
from ppvae.pair import Pair
from ppvae.registry import find

ROWS = 4
NAME = "sigmoid_belief_network"


def made(layers=(3, 2)) -> Any:
    built = build(find(NAME), None, seed=0, x_shape=(1, 2, 2), layers=layers).double()
    torch.manual_seed(101)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return built


def pictures(rows=ROWS) -> Tensor:
    return (torch.rand(rows, 1, 2, 2, generator=torch.Generator().manual_seed(102)) < 0.5).double()


def logistic(layer, above: list[float]) -> list[float]:
    """sigmoid(W above + b), unit by unit."""
    weight, bias = layer[0].weight.tolist(), layer[0].bias.tolist()
    sums = [
        sum(w * a for w, a in zip(row, above, strict=True)) + b for row, b in zip(weight, bias, strict=True)
    ]
    return [float(torch.tensor(s, dtype=torch.float64).sigmoid()) for s in sums]


def mass(probs: list[float], bits: list[float]) -> float:
    p = 1.0
    for prob, bit in zip(probs, bits, strict=True):
        p *= prob if bit else 1 - prob
    return p


def by_hand(built, x: Tensor) -> tuple[Tensor, Tensor]:
    """p(x, z1, ...) and q(z1, ... | x) of every state, (states, B), by products unit by unit."""
    model, guide = built.model, built.guide
    choices = [list(itertools.product((0.0, 1.0), repeat=size)) for size in model.layers]
    rows = [row.flatten().tolist() for row in x]
    p, q = [], []
    for state in itertools.product(*choices):
        layers = [list(z) for z in state]
        prior = mass(model.prior_logits.sigmoid().tolist(), layers[-1])
        for i in range(len(layers) - 1):
            prior *= mass(logistic(model.down[i + 1], layers[i + 1]), layers[i])
        on = logistic(model.down[0], layers[0])
        p.append([prior * mass(on, row) for row in rows])
        q.append([])
        for row in rows:
            below = [row, *layers]
            found = 1.0
            for i, up in enumerate(guide.up):
                found *= mass(logistic(up, below[i]), below[i + 1])
            q[-1].append(found)
    return torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layers", [(3,), (3, 2), (2, 2, 2)])
def test_evidence_and_elbo_are_the_direct_sums(layers):
    """Exact to 1e-9 against products of logistic probabilities, unit by unit and state by state."""
    built, x = made(layers), pictures()
    p, q = by_hand(built, x)
    close(q.sum(0), torch.ones(ROWS, dtype=torch.float64))
    objective = find_estimator("enumeration").estimate(built, {"x": x})
    close(objective.metrics["log_evidence"], p.sum(0).log().mean())
    close(objective.bound, (q * (p.log() - q.log())).sum(0))


def test_the_evidence_sums_to_one_over_all_pictures():
    built = made()
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    p, _ = by_hand(built, every.reshape(16, 1, 2, 2))
    close(p.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_what_it_draws_is_what_it_scores():
    """50,000 draws (seed 101): frequencies of all 16 pictures within 5 standard errors of the direct sum."""
    built = made()
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    p = by_hand(built, every.reshape(16, 1, 2, 2))[0].sum(0)
    with torch.no_grad(), built.local():
        x = built.run_model(n=50_000).flatten(1)
    seen = (x[:, None] == every).all(-1).double().mean(0)
    assert ((seen - p).abs() < 5 * (p * (1 - p) / 50_000).sqrt()).all()


def test_missing_values_and_relaxed_layers():
    built, x = made(), pictures()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(103)) < 0.5
    seen = []
    for filled in (x, torch.where(mask, x, 1 - x)):
        torch.manual_seed(104)
        seen.append(built.score({"x": filled, "mask": mask}, 3).log_weight)
    close(seen[0], seen[1], 0)
    objective = find_estimator("elbo:z1=gumbel,z2=gumbel").estimate(built, {"x": x})
    objective.losses["all"].backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in built.parameters())


def test_it_starts_at_the_pixels_and_needs_a_layer():
    mean = torch.tensor([0.1, 0.4, 0.5, 0.9]).reshape(1, 2, 2)
    built: Any = build(find(NAME), None, x_shape=(1, 2, 2), layers=(3,), x_mean=mean)
    close(built.model.down[0][0].bias.sigmoid(), mean.flatten(), 1e-6)
    with pytest.raises(UsageError, match="one layer or more"):
        build(find(NAME), None, layers=())


# What the pair says of its layers, however many there are.


@pytest.mark.parametrize("layers", [(3,), (3, 2), (2, 2, 2)])
def test_the_linter_takes_any_number_of_layers(layers):
    """No finding at all: q(z2 | z1) reads the datum through bits that have no gradient."""
    pair = dataclasses.replace(find(NAME), sizes={"layers": layers, "x_shape": (1, 2, 2)})
    report = check(pair, batch={"x": pictures(16).float()})
    assert [str(f) for f in report.findings] == []
    assert [row.how for row in report.table if row.name.startswith("z")] == ["score"] * len(layers)


class Forgetful(Mirror):
    """Its top layer reads nothing."""

    def __init__(self, model):
        super().__init__(model)
        self.top = nn.Parameter(torch.zeros(2))
        del self.up[1]

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Bernoulli(logits=self.up[0](x.flatten(1))).to_event(1))
            pyro.sample("z2", dist.Bernoulli(logits=self.top).to_event(1))


def codes(**changes) -> list[tuple[str, str | None]]:
    sizes = {"layers": (3, 2), "x_shape": (1, 2, 2)}
    pair = dataclasses.replace(find(NAME), **{"sizes": sizes, **changes})
    return [(f.code, f.site) for f in check(pair, batch={"x": pictures(16).float()}).findings]


def test_the_linter_still_sees_a_layer_that_reads_nothing():
    assert codes(guide=Forgetful) == [("unamortized", "z2")]


def test_patterns_speak_of_the_sites_that_they_fit():
    pair = Pair(model=Mirror, discrete={"z*": "score", "z2": "enumerate"})
    assert [pair.handling(name) for name in ("z1", "z2", "c")] == ["score", "enumerate", None]
    assert ("handling", "y*") in codes(discrete={"z*": "score", "y*": "score"})
    assert ("handling", "z*") in codes(discrete={"z*": "enumerate"})
    assert ("not-reparameterized", "z2") in codes(discrete={"z1": "score"})

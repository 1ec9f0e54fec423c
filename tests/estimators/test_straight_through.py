"""Straight-through: exact values, and a guide's gradient whose bias stays."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import pytest
import torch

from ppvae.estimators import StraightThrough, find, relaxations, spelled
from tests.estimators.discrete_toys import BIT, codes, layers, onehots, rows
from tests.estimators.every_draw import truth
from tests.toys import bernoulli_toy, ones, z_score

pytestmark = pytest.mark.usefixtures("float64")
GRID = 20_001


def mean(log_weight):
    return log_weight.mean(0)


@pytest.mark.parametrize("kind", ["bits", "onehots", "onehot"])
def test_draws_are_values_of_the_latent_to_the_last_bit(kind):
    torch.set_default_dtype(torch.float32)
    terms = StraightThrough(5).score(codes(kind), rows(50), {})
    z = terms.sites["z"]
    assert set(z.value.unique().tolist()) == {0.0, 1.0}
    assert z.value.requires_grad
    torch.testing.assert_close(z.log_q, z.q.log_prob(z.value.detach()))


@pytest.mark.parametrize("order", ["downward", "upward"])
def test_value_and_model_are_unbiased_and_the_guide_is_not(order):
    """40 blocks of 5,000 draws, seed 0: bound and every model gradient within 4 standard errors of the sum
    over all states; some gradient of the guide off by more than 10."""
    built, batch = layers(order), rows(1)
    value, wanted = truth(mean, built, batch, 1, z1=BIT, z2=BIT, z3=BIT)
    torch.manual_seed(0)
    bounds, slopes = [], {name: [] for name in wanted}
    for _ in range(40):
        objective = StraightThrough().estimate(built, {"x": batch["x"].expand(5_000, 2)})
        bounds.append(objective.bound.mean())
        grads = torch.autograd.grad(objective.losses["all"], list(built.parameters()))
        for name, g in zip(wanted, grads, strict=True):
            slopes[name].append(g)
    assert z_score(torch.stack(bounds), value[0]).abs() < 4
    scores = {}
    for name, draws in slopes.items():
        found = torch.stack(draws)
        still = found.std(0) < 1e-12
        torch.testing.assert_close(found.mean(0)[still], wanted[name][still])
        scores[name] = z_score(found[:, ~still], wanted[name][~still]).abs().max() if (~still).any() else 0.0
    assert max(z for name, z in scores.items() if name.startswith("model.")) < 4
    assert max(z for name, z in scores.items() if name.startswith("guide.")) > 10


def test_the_bias_stays_at_every_temperature(monkeypatch):
    """By quadrature to 1e-3 on the toy: the slope is .0603155; the value is exact at every T."""
    u = (torch.arange(GRID) + 0.5) / GRID
    monkeypatch.setattr(relaxations, "noise_like", lambda logits, kind: u.logit().expand_as(logits))
    built, biases = bernoulli_toy(), []
    for t in (2.0, 1.0, 0.5, 0.1):
        objective = StraightThrough(temperature=t).estimate(built, ones(GRID))
        assert objective.bound.mean().item() == pytest.approx(-0.899033, abs=1e-4)
        slope = -torch.autograd.grad(objective.losses["all"], built.guide.logit)[0].item()
        biases.append(abs(slope - 0.0603155))
    assert min(biases) > 0.03


def test_categories_too():
    """The bound of one-hot latents, 200,000 draws, seed 0, within 4 standard errors."""
    built, batch = codes("onehot"), rows(1)
    value, _ = truth(mean, built, batch, 1, z=onehots(1, 3)[:, 0])
    torch.manual_seed(0)
    with torch.no_grad():
        bound = StraightThrough().estimate(built, {"x": batch["x"].expand(200_000, 2)}).bound
    assert z_score(bound, value[0]).abs() < 4


def test_is_found_by_name():
    text = "straight_through:temperature=0.5,least=0.2,rate=0.001"
    assert spelled(find(text)) == text
    assert find(text).schedule(10_000) == {"temperature": 0.2}
    assert StraightThrough.claims.biased == ("guide",)
    assert set(StraightThrough().targets()) == {"bound", "model", "guide"}

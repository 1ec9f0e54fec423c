"""Relaxed draws and their scores: at the values of a discrete latent they are the latent's own."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import pyro.distributions as dist
import pytest
import torch

from ppvae.drawing import relaxed_log_prob
from ppvae.errors import PairError
from ppvae.estimators.relaxations import (
    concrete_log_prob,
    harden,
    innermost,
    is_relaxable,
    kind_of,
    relaxed_draw,
    soften,
)

pytestmark = pytest.mark.usefixtures("float64")
MASK = torch.tensor([[True, False, True], [False, True, True]])


def logits(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch.zeros(()))


WRAPPED = {
    "plain bits": lambda: dist.Bernoulli(logits=logits(2, 3)),
    "bits by probs": lambda: dist.Bernoulli(probs=logits(2, 3).sigmoid()),
    "independent bits": lambda: dist.Bernoulli(logits=logits(2, 3)).to_event(1),
    "twice independent": lambda: dist.Bernoulli(logits=logits(4, 2, 3)).to_event(1).to_event(1),
    "expanded bits": lambda: dist.Bernoulli(logits=logits(3)).expand([4, 2, 3]),
    "expanded independent": lambda: dist.Bernoulli(logits=logits(3)).to_event(1).expand([4, 2]),
    "masked bits": lambda: dist.Bernoulli(logits=logits(2, 3)).mask(MASK),
    "masked inside": lambda: dist.Bernoulli(logits=logits(2, 3)).mask(MASK).to_event(1),
    "masked outside": lambda: dist.Bernoulli(logits=logits(2, 3)).to_event(1).mask(MASK[:, 0]),
    "masked by a word": lambda: dist.Bernoulli(logits=logits(2, 3)).mask(False),
    "masked twice": lambda: dist.Bernoulli(logits=logits(2, 3)).mask(MASK).mask(MASK.roll(1, 0)),
    "expanded masked": lambda: dist.Bernoulli(logits=logits(2, 3)).mask(MASK).expand([4, 2, 3]),
    "categories": lambda: dist.OneHotCategorical(logits=logits(2, 3)),
    "categories by probs": lambda: dist.OneHotCategorical(probs=logits(2, 3).softmax(-1)),
    "independent categories": lambda: dist.OneHotCategorical(logits=logits(4, 2, 3)).to_event(1),
    "expanded categories": lambda: dist.OneHotCategorical(logits=logits(3)).expand([4, 2]),
    "masked categories": lambda: dist.OneHotCategorical(logits=logits(4, 2, 3)).mask(MASK[:, 0]),
    "masked inside categories": lambda: (
        dist.OneHotCategorical(logits=logits(4, 2, 3)).mask(MASK[:, 0]).to_event(1)
    ),
    "straight-through categories": lambda: dist.OneHotCategoricalStraightThrough(logits=logits(2, 3)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_relaxed_score_is_the_own_one_at_hard_values(name):
    """Exact to 1e-12, value and gradient in the logits, for many draws."""
    torch.manual_seed(0)
    q = WRAPPED[name]()
    for _ in range(20):
        value = q.sample()
        torch.testing.assert_close(relaxed_log_prob(q, value), q.log_prob(value), rtol=1e-12, atol=1e-12)
    assert relaxed_log_prob(q, value).shape == q.batch_shape


@pytest.mark.parametrize("name", WRAPPED)
def test_draws_have_the_shape_of_q_and_become_its_values(name):
    """At T = 1e-6 a relaxed draw is the hard one of the same noise; hard draws are it exactly."""
    q = WRAPPED[name]()
    torch.manual_seed(0)
    cold = relaxed_draw(q, "z", 1e-6)
    torch.manual_seed(0)
    hard = relaxed_draw(q, "z", 1.0, hard=True)
    assert cold.value.shape == q.batch_shape + q.event_shape
    assert cold.how == hard.how == "relaxed"
    torch.testing.assert_close(cold.value, hard.value, atol=1e-6, rtol=0)
    assert ((hard.value == 0) | (hard.value == 1)).all()
    assert concrete_log_prob(q, hard.noise).shape == q.batch_shape


@pytest.mark.parametrize(
    ("kind", "law"), [("bernoulli", dist.Bernoulli), ("categorical", dist.OneHotCategorical)]
)
def test_hard_draws_have_the_law_of_q(kind, law):
    """400,000 draws, seed 0, within 4 standard errors of the probabilities; hard and soft agree on the
    winner."""
    a = torch.tensor([0.3, -1.2, 0.9])
    q = law(logits=a.expand(400_000, 3))
    kind = kind_of(q, "z")
    torch.manual_seed(0)
    value = relaxed_draw(q, "z", 1.0, hard=True).value
    p = a.sigmoid() if kind == "bernoulli" else a.softmax(-1)
    assert ((value.mean(0) - p).abs() < 4 * (p * (1 - p) / 400_000).sqrt()).all()
    perturbed = torch.randn(100, 3)
    soft = soften(perturbed, kind, 0.5)
    same = (soft > 0.5).to(soft) if kind == "bernoulli" else (soft == soft.amax(-1, keepdim=True)).to(soft)
    assert torch.equal(harden(perturbed, kind), same)


def test_what_is_continuous_already_is_not_relaxed():
    """Known by their classes: names that merely hold the words are others."""
    for q in (
        dist.ContinuousBernoulli(logits=logits(3)),
        dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=logits(3)),
        dist.RelaxedBernoulli(torch.tensor(0.5), logits=logits(3)),
        dist.Normal(logits(3), 1.0).to_event(1),
    ):
        assert not is_relaxable(q)
        with pytest.raises(
            PairError, match=f"'z' is drawn from a {type(innermost(q)).__name__}, which has no"
        ):
            kind_of(q, "z")
    with pytest.raises(PairError, match="has no relaxation"):
        relaxed_log_prob(dist.Poisson(torch.ones(3)), torch.ones(3))

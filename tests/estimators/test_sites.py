"""A choice for each latent, under any estimator."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import pytest
import torch

from ppvae.errors import PairError, UsageError
from ppvae.estimators import find, spelled
from tests.estimators.discrete_toys import BIT, codes, components, layers, onehots, rows
from tests.estimators.every_draw import assert_unbiased, moments
from tests.toys import assert_same, bernoulli_toy, gaussian_toy, loss_and_gradients, ones, z_score

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("text", ["elbo", "reinforce:k=2", "elbo:z1=enumerate", "analytic_kl:z1=enumerate"])
def test_a_sum_of_some_bits_leaves_the_mean(text):
    """Exact to 1e-9 over every draw of the bits that are not summed out: bound and gradient are in the mean
    those of all three summed out here."""
    built, batch, estimator = layers(), rows(1), find(text)
    wanted = find("enumeration").estimate(built, batch)
    slopes = torch.autograd.grad(wanted.losses["all"], list(built.parameters()))
    supports = {name: BIT for name in ("z1", "z2", "z3") if name not in estimator.sites}
    found = moments(estimator, built, batch, **supports)
    torch.testing.assert_close(found.bound, wanted.bound, rtol=1e-9, atol=1e-9)
    assert_same(found.gradient, dict(zip(found.gradient, slopes, strict=True)))


def test_what_is_drawn_given_a_sum_needs_a_path():
    with pytest.raises(PairError, match="'z3' is drawn given 'z2', which the guide enumerates"):
        find("elbo:z2=enumerate")(layers("upward"))(rows())


def test_summing_every_bit_is_exact():
    """To 1e-9: Pyro's enumeration of one latent is the sum over its states."""
    for text in ("elbo:z=enumerate", "enumeration", "enumeration:z=enumerate"):
        loss, found = loss_and_gradients(find(text), bernoulli_toy(), ones(3))
        assert -loss.item() == pytest.approx(-0.899033, abs=1e-6)
        assert -found["guide.logit"].item() == pytest.approx(0.0603155, abs=1e-7)
    one, other = (
        loss_and_gradients(find(t), codes("onehot"), rows()) for t in ("elbo:z=enumerate", "enumeration")
    )
    torch.testing.assert_close(one[0], other[0], rtol=1e-9, atol=1e-9)
    assert_same(one[1], other[1])


def test_the_score_function_of_a_gaussian_is_unbiased():
    """z ~ N drawn without its path, 100 blocks of 5,000 draws, seed 0: within 4 standard errors of the closed
    form, x - 2 loc by loc and 1 - 2 scale^2 by log scale."""
    built = gaussian_toy(0.2, 0.7)
    torch.manual_seed(0)
    slopes = []
    for _ in range(100):
        objective = find("elbo:z=score").estimate(built, ones(5_000))
        slopes.append(-torch.stack(torch.autograd.grad(objective.losses["all"], list(built.parameters()))))
    assert z_score(torch.stack(slopes), torch.tensor([1 - 2 * 0.2, 1 - 2 * 0.7**2])).abs().max() < 4
    z = find("elbo:z=score").score(built, ones(2), {}).sites["z"]
    assert z.how == "score"
    assert not z.value.requires_grad


def test_relaxed_choices_are_soft_and_hard():
    soft = find("elbo:z=gumbel").score(codes("bits"), rows(), {})
    hard = find("elbo:z=straight_through").score(codes("bits"), rows(), {})
    assert ((soft.sites["z"].value > 1e-6) & (soft.sites["z"].value < 1 - 1e-6)).any()
    assert set(hard.sites["z"].value.unique().tolist()) == {0.0, 1.0}
    assert soft.sites["z"].value.requires_grad
    assert hard.sites["z"].value.requires_grad


def test_a_relaxed_choice_takes_back_what_is_claimed():
    """A relaxed draw is no bound, and biases both gradients; a straight-through one biases the guide's."""
    for text in ("elbo", "vimco:k=2", "reinforce:k=2"):
        separator = "," if ":" in text else ":"
        (plain, targets), (soft, softly), (hard, hardly) = (
            find(text + choice).promise()
            for choice in ("", f"{separator}z=gumbel", f"{separator}z=straight_through")
        )
        assert (plain.bound, plain.biased) == ("lower", ())
        assert (soft.bound, soft.biased) == (None, ("model", "guide"))
        assert (hard.bound, hard.biased) == ("lower", ("guide",))
        assert hardly.keys() == targets.keys() == {"bound", *softly}
    batch = rows()
    assert find("elbo:z=gumbel").estimate(codes("bits"), batch).bound is None
    assert find("elbo:z=straight_through").estimate(codes("bits"), batch).bound is not None


def test_refuses_names_and_words_that_do_not_exist():
    for text in ("elbo", "vimco", "reinforce", "nvil", "gumbel", "straight_through", "enumeration"):
        with pytest.raises(PairError, match="no latent 'cc', did you mean 'c'"):
            find(f"{text}:cc=enumerate")(components())(rows(2, 1))
        with pytest.raises(UsageError, match="'enumerat', did you mean 'enumerate'"):
            find(f"{text}:c=enumerat")
    with pytest.raises(PairError, match="which is not reparameterized: use c=score, enumerate or gumbel"):
        find("elbo:c=reparameterized")(components())(rows(2, 1))
    with pytest.raises(PairError, match="'z' is drawn from a Normal, which has no relaxation"):
        find("elbo:z=gumbel")(components())(rows(2, 1))


def test_choices_are_part_of_the_name():
    for text in (
        "elbo:c=enumerate,z=score",
        "vimco:particles=3,c=gumbel",
        "nvil:z=score",
        "enumeration:c=gumbel",
    ):
        assert spelled(find(text)) == text


def test_a_score_choice_under_the_importance_weighted_bound():
    """Exact to 1e-9 over every draw: what is drawn by the score function anyway stays so."""
    assert_unbiased(find("vimco:k=2,z=score"), codes("onehot"), rows(1), z=onehots(1, 3)[:, 0])

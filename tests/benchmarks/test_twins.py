"""What is timed beside ours computes what ours does, exactly."""

import pytest
import torch

from ppvae.data import load
from ppvae.engine import EagerStep
from ppvae.estimators import find

CASES = ["mlp", "iwae_5", "iwae_50", "dreg_5", "vae", "conv_vae", "recurrent"]


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_these_are_all_cases(script):
    assert list(script("step_time").cases()) == CASES


@pytest.mark.parametrize("name", CASES)
def test_a_twin_has_our_loss_and_gradients_under_the_same_noise(script, digits, name):
    """To 1e-10 in float64; the gradients of all parameters, in norm."""
    step_time, contestants = script("step_time"), script("contestants")
    case = step_time.cases()[name]
    field = contestants.Field(case, digits, torch.device("cpu"))
    built, twin = field.built().double(), field.twin().double()
    x = field.x(torch.arange(8)).double()
    torch.manual_seed(5)
    ours = find(case.estimator)(built)({"x": x})
    ours.backward()
    torch.manual_seed(5)
    theirs = case.loss(twin, x)
    theirs.backward()
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-10)
    model, guide = contestants.parts(built)
    parameters = [*guide.parameters(), *model.parameters()]
    for mine, other in zip(twin.parameters(), parameters, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert float((mine.grad - other.grad).norm()) <= 1e-10 * float(other.grad.norm())


def test_parameters_go_to_the_twin_and_back(script, digits):
    contestants, twins = script("contestants"), script("twins")
    field = contestants.Field(script("step_time").cases()["vae"], digits, torch.device("cpu"))
    twin, built = field.twin(), field.built()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1.0
    twins.give_back(twin, *contestants.parts(built))
    start = field.built()
    for moved, before in zip(built.parameters(), start.parameters(), strict=True):
        assert torch.equal(moved, before + 1.0)


def test_what_is_compared_takes_the_same_steps(script, digits):
    """Ours, by hand, by hand in the place of our estimator, and Pyro: the same losses for the same noise over
    a few steps. Pyro's Adam sees sums over the batch, which its eps does not know."""
    contestants = script("contestants")
    field = contestants.Field(script("step_time").cases()["mlp"], digits, torch.device("cpu"))
    order = torch.arange(5 * 16).split(16)

    def losses(contestant):
        torch.manual_seed(2)
        return [contestant([rows]) for rows in order]

    wanted = losses(field.ours("eager"))
    assert wanted[-1] < wanted[0]
    assert losses(field.by_hand(compile=False)) == pytest.approx(wanted, rel=1e-5)
    assert losses(field.by_pyro()) == pytest.approx(wanted, rel=1e-4)
    assert losses(field.by_pyro(validate=False)) == pytest.approx(wanted, rel=1e-4)
    twin = field.twin()
    traced = field.traced()
    assert isinstance(traced.step, EagerStep)
    assert traced.step.mode == "graph"
    by_hand = contestants.ByHand(field.case.loss)
    step = EagerStep(traced.trained, by_hand, traced.step.config, field.train.batch)
    torch.manual_seed(2)
    assert [float(step(rows, {})["loss"]) for rows in order] == pytest.approx(wanted, rel=1e-5)
    assert len(list(twin.parameters())) == len(list(traced.trained.parameters()))


def test_a_contestant_that_fell_back_is_none(script):
    """It would be timed as something that it is not."""

    class Fallen:
        mode, reason = "graph", "a number is read off a tensor"

    contestant = script("contestants").Contestant(lambda rows: 1.0, None, step=Fallen())
    with pytest.raises(RuntimeError, match="graph fell back to eager: a number is read"):
        contestant([torch.arange(3)])
    Fallen.mode = "auto"
    assert contestant([torch.arange(3)]) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "iwae_5"])
def test_numpyro_has_our_loss_within_the_error_of_sampling(script, digits, name):
    pytest.importorskip("numpyro")
    step_time = script("step_time")
    field = script("contestants").Field(step_time.cases()[name], digits, torch.device("cpu"))
    numpyro = field.by_numpyro()
    assert abs(step_time.numpyro_seen_equal(field, numpyro, torch.arange(64))) < 4
    before = numpyro([torch.arange(64)] * 2)
    assert numpyro([torch.arange(64)] * 30) < before

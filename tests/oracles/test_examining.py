"""Right estimators pass, broken ones fail by the name of what they break."""
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

import json
import re

import pytest
import torch

from ppvae import estimators
from ppvae.errors import UsageError
from ppvae.estimators import Estimator, Objective
from ppvae.estimators.functionals import mean
from ppvae.oracles import OracleReport, OracleRow, examine, measuring, trial
from ppvae.oracles.examining import _threshold
from ppvae.oracles.measuring import Comparison, compare, deviates
from ppvae.oracles.subjects import Oracle, named, oracles
from tests.oracles.broken import (
    BROKEN,
    ClaimedBias,
    CountsInside,
    LeaveOneOut,
    NoLogK,
    Plain,
    Raises,
    Silent,
    Weighs,
    raised,
)

FEW = ("one_bit", "gaussian", "one_bit_scaled", "gaussian_scaled")


def few(*names: str) -> list[Oracle]:
    return [named(name) for name in names or FEW]


def failed(report: OracleReport) -> set[str]:
    return {row.property for row in report.of("fail")}


def verdicts(report: OracleReport, oracle: str) -> dict[str, str]:
    return {row.property: row.verdict for row in report.rows if oracle in row.oracle.split(", ")}


# Broken.


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_what_is_broken_fails_by_name(cls):
    subjects = ("gaussian", "gaussian_scaled") if issubclass(cls, Weighs) else ("one_bit", "gaussian")
    report = examine(cls(), subjects=few(*subjects))
    assert failed(report) - set(cls.may) == set(cls.fails), report
    assert not report.ok
    assert "not as claimed" in report.summary


def test_a_weight_of_n_is_found_without_a_plate_that_says_n():
    assert failed(examine(CountsInside(), subjects=few("two_layers"))) == {"number of data"}


# Right.


@pytest.mark.parametrize(
    "estimator", [Weighs(1), Weighs(3), Plain(), LeaveOneOut()], ids=lambda e: type(e).__name__
)
def test_what_is_written_out_rightly_passes(estimator):
    report = examine(estimator, subjects=few())
    assert failed(report) == set(), report
    assert report.ok
    assert "every claim holds" in report.summary


@pytest.mark.parametrize("text", [*estimators.ESTIMATORS, "iwae:k=1", "iwae:k=2", "elbo:k=3"])
def test_ours_hold_what_they_claim(text):
    report = examine(text, subjects=few("one_bit", "gaussian"))
    assert failed(report) == set(), report
    assert report.of("pass")


@pytest.mark.slow
@pytest.mark.parametrize("text", estimators.ESTIMATORS)
def test_ours_hold_what_they_claim_everywhere(text):
    report = examine(text, seed=1)
    assert failed(report) == set(), report
    assert report.seconds < 120


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_right_estimator_passes_under_any_seed(seed):
    """One comparison in a thousand families is off, and then measured again."""
    assert examine(Weighs(2), seed=seed, subjects=few("gaussian")).ok


def test_claimed_bias_is_seen_and_measured():
    report = examine(ClaimedBias(), subjects=few("gaussian"))
    (row,) = report.of("biased")
    assert (row.property, report.ok) == ("guide gradient", True)
    assert "% of the true one's norm, and along it" in row.detail
    one = examine(ClaimedBias(1), subjects=few("gaussian"))  # one draw: no bias
    assert [row.property for row in one.of("unseen")] == ["guide gradient"]


def test_what_is_not_claimed_is_not_judged():
    report = examine(Silent(), subjects=few("gaussian"))
    assert {"value", "model gradient", "guide gradient"} == {row.property for row in report.of("no claim")}
    assert "neither value nor gradient was judged: it names no targets()" in report.summary
    assert report.ok


def test_a_refusal_is_no_pass():
    report = examine("iwae:k=2", subjects=few("one_bit"))
    (row,) = report.rows
    assert row.verdict == "not applicable"
    assert row.detail.startswith("IWAE needs a reparameterized guide")
    assert not report.ok
    assert "no oracle could judge it" in report.summary


def test_scales_are_refused_or_right():
    """Refused by what weighs; refused for another reason is no pass; the ELBO is right."""
    report = examine("iwae:k=2", subjects=few())
    assert verdicts(report, "gaussian_scaled") == {"scale": "pass"}
    assert verdicts(report, "one_bit_scaled") == {"": "not applicable"}
    report = examine("elbo", subjects=few())
    assert verdicts(report, "gaussian_scaled") == {
        "value": "pass", "model gradient": "pass", "guide gradient": "pass"
    }  # fmt: skip


def test_a_truth_that_is_too_large_is_said():
    report = examine("vimco:k=20", subjects=few("belief_net"))
    (row,) = [row for row in report.rows if row.property == "value"]
    assert row.verdict == "not applicable"
    assert "16 joint states" in row.detail


def test_a_truth_that_cannot_be_computed_is_no_failure(monkeypatch):
    """More draws than Sobol points have dimensions; and an error of ours."""
    monkeypatch.setattr(measuring, "WORK", 1)
    monkeypatch.setattr(torch.quasirandom.SobolEngine, "MAXDIM", 7)
    report = examine(Weighs(8), subjects=few("gaussian"))
    assert failed(report) == set(), report
    (row,) = [row for row in report.rows if row.property == "value"]
    assert row.verdict == "not applicable"
    assert "8 draws of 1 reals are too many for Sobol points, use fewer particles" in row.detail

    def breaks(*_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(trial, "truth", breaks)
    report = examine(Weighs(2), subjects=few("gaussian"))
    assert failed(report) == set(), report
    assert "it cannot be computed (" in str(report)
    assert "RuntimeError: out of order)" in str(report)
    assert "neither value nor gradient was judged: their truth is not known" in report.summary


def test_what_is_the_same_everywhere_is_one_row():
    """A failure and a refusal, too: where there are few oracles they are named."""
    report = examine(Raises(), subjects=few())
    (row,) = report.rows
    assert (row.oracle, row.property, row.verdict) == ("4 oracles", "runs", "fail")
    assert row.detail.endswith("RuntimeError: out of luck")
    (row,) = examine("iwae:k=2", subjects=few("one_bit", "one_bit_scaled")).rows
    assert (row.oracle, row.verdict) == ("one_bit, one_bit_scaled", "not applicable")


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (None, "returned a NoneType"),
        ([1], "returned a list"),
        (Objective(None, {"all": torch.zeros(3, requires_grad=True)}), "take its mean over the batch"),
        (Objective(None, {"all": torch.zeros(())}), "no loss of the objective reaches a parameter"),
        (Objective(None, {"gide": torch.zeros(())}), "'gide', which is no optimizer group, did you mean"),
        (SystemExit(3), "SystemExit: 3"),
        (NotImplementedError(), "broken.py"),
    ],
    ids=str,
)
def test_a_mistake_of_the_estimator_is_a_failure_in_its_own_words(made, line):
    class Mistaken(Plain):
        def objective(self, terms, knobs):
            return raised(made) if isinstance(made, BaseException) else made

    report = examine(Mistaken(), subjects=few())
    (row,) = report.rows
    assert (row.property, row.verdict) == ("runs", "fail")
    assert line in row.detail


def test_an_estimator_without_an_objective_fails():
    (row,) = examine(Estimator(), subjects=few()).rows
    assert (row.property, row.verdict) == ("runs", "fail")
    assert "Estimator defines no objective(terms, knobs)" in row.detail


@pytest.mark.parametrize(
    ("targets", "line"),
    [
        ({"bounds": mean}, "names 'bounds', did you mean 'bound'? There are: bound, model, guide"),
        ([mean], "returned a list: return a dictionary"),
        ({"bound": torch.mean}, "made () of 4 data: it takes log-weights (K, B) to one number per datum"),
        ({"model": 3}, "targets()['model'] of Misnamed: TypeError: 'int' object is not callable: it takes"),
    ],
    ids=str,
)
def test_targets_that_are_none_are_refused(targets, line):
    class Misnamed(Weighs):
        def targets(self):
            return targets

    with pytest.raises(UsageError, match=re.escape(line)):
        examine(Misnamed(), subjects=few("gaussian"))


def test_an_estimator_that_was_never_set_up_is_refused():
    class Bare(Plain):
        def __init__(self):
            pass

    with pytest.raises(UsageError, match=r"Bare was never set up: call super\(\).__init__"):
        examine(Bare(), subjects=few("gaussian"))


def test_a_bound_where_it_should_be_has_no_z():
    report = examine(Plain(), subjects=few("gaussian"))
    (row,) = [row for row in report.rows if row.property == "bound"]
    assert (row.verdict, row.z) == ("pass", None)
    (row,) = [row for row in examine(NoLogK(), subjects=few("gaussian")).rows if row.property == "bound"]
    assert row.z is not None
    assert row.z > 5


def test_parameters_that_model_and_guide_share():
    """A guide made of the model's parameters: judged where both climb one thing, left out where not."""
    (oracle,) = (o for o in oracles() if o.name == "ppca")
    assert verdicts(examine("elbo", subjects=[oracle]), "ppca")["model gradient"] == "pass"
    assert verdicts(examine(ClaimedBias(), subjects=[oracle]), "ppca")["model gradient"] == "not applicable"


# Nothing is touched, everything is reproducible.


def test_a_report_is_reproducible_and_leaves_no_trace():
    estimator, subjects = Weighs(2), few("gaussian")
    before = [p.detach().clone() for o in subjects for p in o.built.parameters()]
    torch.manual_seed(5)
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    first, second = (examine(estimator, seed=3, subjects=subjects) for _ in range(2))
    assert first.rows == second.rows
    assert first.rows != examine(estimator, seed=4, subjects=subjects).rows
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    after = [p for o in subjects for p in o.built.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


def test_a_report_is_json_and_a_table(capsys):
    report = examine("elbo", subjects=few("gaussian"))
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["ok"] is True
    assert told["comparisons"] == report.comparisons > 10
    (value,) = [row for row in told["rows"] if row["property"] == "value"]
    assert value["truth"] == pytest.approx(value["estimate"], abs=0.02)
    report.render()
    out = capsys.readouterr().out
    assert "guide gradient" in out
    assert "every claim holds" in out
    assert "beside log p(x), with a z where it is on the wrong side" in " ".join(out.split())


def test_zero_has_no_sign_in_the_table(capsys):
    OracleReport("mine", [OracleRow("one", "value", "pass", -1e-9, -2e-9, -0.04)]).render()
    out = capsys.readouterr().out
    assert "0.000000" in out
    assert "-0.0" not in out


# Statistics.


def test_deviates_of_student():
    """P(|t| > 2.228) = .05 under 10 degrees of freedom, P(|t| > 3.558) = .001 under 39: as tabled."""
    one = torch.ones(1, dtype=torch.float64)
    for t, freedom, z in ((2.228, 10, 1.95996), (-3.558, 39, -3.29053)):
        assert deviates(t * one, one, None, one, freedom).item() == pytest.approx(z, abs=2e-3)
    assert deviates(2.228 * 5 * one, 3 * one, 4 * one, one, 10).item() == pytest.approx(1.95996, abs=2e-3)


def test_what_does_not_vary_is_exact_or_off():
    draws, truth = (
        torch.ones(5, 2, dtype=torch.float64),
        torch.tensor([1 + 1e-7, 1 + 1e-5], dtype=torch.float64),
    )
    assert compare(["a", "b"], draws, truth).z.tolist() == [0.0, -float("inf")]


def test_z_scores_of_a_few_passes():
    """1, 2, 3, 6 against 1: t = 2 / (2.160247 / 2) = 1.851640 under 3 degrees of freedom, p = .161162."""
    draws = torch.tensor([[1.0], [2.0], [3.0], [6.0]], dtype=torch.float64)
    found = compare(["a"], draws, torch.ones(1, dtype=torch.float64))
    assert found.mean.item() == 3
    assert found.z.item() == pytest.approx(1.4012, abs=5e-3)


def test_no_number_is_worse_than_any():
    z = torch.tensor([7.0, float("nan"), -9.0])
    assert Comparison(["a", "b", "c"], z, z, z).worst() == 1


def test_the_threshold_grows_with_the_comparisons():
    assert _threshold(1) == pytest.approx(3.2905, abs=1e-4)
    assert _threshold(1000) == pytest.approx(4.8916, abs=1e-4)

"""The options of a comparison, and a schedule in YAML."""

import subprocess
import sys

import pytest

from ppvae.comparison.options import CompareConfig, read_schedule
from ppvae.errors import UsageError


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"seeds": 0}, "seeds=0 is too small: use at least 1"),
        ({"repeats": 7}, "repeats=7 tell nothing of a spread"),
        ({"probe": True, "repeats": 0}, "probe=true with repeats=0 does nothing"),
        ({"budget_seconds": 3.0, "steps": 5}, "budget_seconds is a budget beside steps and epochs"),
        ({"budget_seconds": -1.0}, "budget_seconds=-1.0 is no positive number"),
        ({"budget_seconds": 3.0, "train": {"schedule": "cosine"}}, "a schedule needs a number of steps"),
        ({"train": {"lr": 0.1}}, "train: lr is an option of the comparison itself"),
        ({"train": {"patience": 3}}, "patience would end the budgets unequally"),
        ({"train": {"clipnorm": 3}}, "no option 'clipnorm', did you mean 'clip_norm'"),
        ({"lr": 0.0}, "lr=0.0 is no positive number"),
        ({"binarization": "sometimes"}, "no binarization 'sometimes'"),
        ({"steps": 2.5}, "steps=2.5 does not fit"),
        ({"estimators": ("k=5",)}, "is an option without its estimator"),
    ],
)
def test_what_cannot_be_is_refused(options, line):
    with pytest.raises(UsageError, match=line):
        CompareConfig(**options)


def test_a_misspelt_option_is_told_the_nearest():
    with pytest.raises(UsageError, match=r"no option 'estimatrs', did you mean 'estimators'"):
        CompareConfig.from_dict({"estimatrs": "elbo"})


def test_the_pairs_own_options_lie_below_the_comparisons():
    own = {"epochs": 200, "lr": 1e-2, "batch": 7}
    found = CompareConfig(lr=0.5, train={"clip_norm": 10.0}).training(own)
    assert (found.epochs, found.lr, found.batch, found.clip_norm) == (200, 0.5, 7, 10.0)
    assert CompareConfig(epochs=3).training({"steps": 900}).steps is None
    assert CompareConfig(steps=3).training({"epochs": 900}).steps == 3


def test_nothing_but_the_budget_ends_a_training():
    found = CompareConfig().training({"patience": 5, "check": True})
    assert found.patience is None
    assert not found.check


def test_a_schedule(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("pair: vae\nestimators: [elbo, 'iwae:k=5']\nlr: 1e-3\nsizes: {latent: 8}\nsteps: 300\n")
    pair, values = read_schedule(file)
    found = CompareConfig.from_dict(values)
    assert pair == "vae"
    assert (found.estimators, found.lr, found.sizes, found.steps) == (
        ("elbo", "iwae:k=5"),
        1e-3,
        {"latent": 8},
        300,
    )
    file.write_text("estimators: elbo,iwae:k=5,beta=1\n")
    assert CompareConfig.from_dict(read_schedule(file)[1]).estimators == ("elbo", "iwae:k=5,beta=1")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- a\n", "holds a list: write one option: value a line"),
        ("a: [1\n", "is no YAML"),
        ("pair: 3\n", "pair=3 is no name of a pair"),
        ("stepz: 3\n", "no option 'stepz', did you mean 'steps'"),
    ],
)
def test_a_schedule_that_says_nothing(tmp_path, text, line):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=line):
        read_schedule(file)


def test_a_schedule_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no file"):
        read_schedule(tmp_path / "none.yaml")


def test_what_goes_into_yaml_comes_out():
    config = CompareConfig(estimators=("elbo", "iwae:k=5"), sizes={"hidden": [3, 4]}, lr=0.1)
    assert CompareConfig.from_dict(config.to_dict()) == config


def test_options_alone_load_neither_torch_nor_pyro():
    heavy = ("torch", "pyro", "numpy", "matplotlib")
    code = f"import sys, ppvae.comparison.options; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

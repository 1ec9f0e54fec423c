"""The options of a training: checked when they are given, with one line that says the fix."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppvae import TrainConfig
from ppvae.config import RECORDED
from ppvae.errors import UsageError


def test_the_defaults_of_the_readme():
    """One object is what `fit()`, the flags and the recipe start from."""
    config = TrainConfig()
    assert (config.estimator, config.engine, config.optimizer) == ("elbo", "auto", "adam")
    assert (config.seed, config.device, config.check) == (0, "auto", True)
    assert config.eval_k >= 1000
    assert config.eval_n >= 1000
    assert config.out == Path("runs")
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_it_is_frozen_and_its_dicts_are_its_own():
    sizes = {"latent": 2}
    config = TrainConfig(sizes=sizes)
    sizes["latent"] = 3
    assert config.sizes == {"latent": 2}
    assert TrainConfig().sizes is not TrainConfig().sizes
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"lr": "1e-3"}, 1e-3),  # as YAML reads it
        ({"lr": 1}, 1.0),
        ({"epochs": np.int64(3)}, 3),
        ({"lr": np.float32(0.5)}, 0.5),
        ({"clip_norm": None}, None),
        ({"out": "a/b"}, Path("a/b")),
        ({"data": Path("own.npz")}, "own.npz"),
        ({"lr_groups": {"guide": "3e-4"}}, {"guide": 3e-4}),
    ],
)
def test_what_is_meant_is_taken(given, wanted):
    (name,) = given
    found = getattr(TrainConfig(**given), name)
    assert found == wanted
    assert type(found) is type(wanted) or isinstance(wanted, Path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs=0 is too small: use at least 1"),
        ({"epochs": 2.0}, "epochs=2.0 does not fit: give a whole number"),
        ({"epochs": "three"}, "epochs='three' does not fit: give a whole number"),
        ({"epochs": True}, "epochs=True does not fit: give a whole number"),
        ({"epochs": None}, "epochs=None does not fit: give a whole number"),
        ({"steps": 0}, "steps=0 is too small: use at least 1"),
        ({"batch": -5}, "batch=-5 is too small: use at least 1"),
        ({"lr": 0}, "lr=0.0 is no positive number: use one such as 1e-3"),
        ({"lr": float("nan")}, "lr=nan is no positive number"),
        ({"lr": float("inf")}, "lr=inf is no positive number"),
        ({"lr": "fast"}, "lr='fast' is no number: use one such as 1e-3"),
        ({"lr": True}, "lr=True does not fit: give a number"),
        ({"lr_groups": {"guide": -1}}, "lr_groups: guide=-1.0 is no positive number"),
        ({"lr_groups": {"guide": "x"}}, "lr_groups: guide='x' is no number"),
        ({"lr_groups": 3}, "lr_groups=3 does not fit: give names with values"),
        ({"clip_norm": 0}, "clip_norm=0.0 is no positive number"),
        ({"weight_decay": -1}, "weight_decay=-1.0 is too small"),
        ({"kl_warmup": -1}, "kl_warmup=-1 is too small"),
        ({"patience": 0}, "patience=0 is too small"),
        ({"seed": -1}, "seed=-1 is too small: use at least 0"),
        ({"seed": 2**32}, "seed=4294967296 is too large"),
        ({"threads": 0}, "threads=0 is too small"),
        ({"check": 1}, "check=1 does not fit: give true or false"),
        ({"sizes": ["latent"]}, "does not fit: give names with values"),
        ({"optimizer": "adm"}, "no optimizer 'adm', did you mean 'adam'? There are: adam, adamw"),
        ({"schedule": "zzz"}, "no schedule 'zzz': There are: constant, linear, cosine"),
        ({"engine": "pyr"}, "no engine 'pyr', did you mean 'pyro'?"),
        ({"binarization": "sttic"}, "no binarization 'sttic', did you mean 'static'?"),
        ({"data": 3}, "data=3 does not fit: give a text"),
        ({"out": None}, "out=None does not fit: give a text"),
    ],
)
def test_what_does_not_fit_is_one_line(given, message):
    with pytest.raises(UsageError) as caught:
        TrainConfig(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_is_told_the_nearest():
    with pytest.raises(UsageError, match="no option 'lrate', did you mean"):
        TrainConfig.from_dict({"lrate": 1e-3})
    with pytest.raises(UsageError, match="no option 3: There are:"):
        TrainConfig.from_dict({3: 1})  # type: ignore[dict-item]


def test_what_a_run_records_is_a_recipe():
    saved = {**TrainConfig(epochs=3).to_dict(), **dict.fromkeys(RECORDED, "x")}
    assert TrainConfig.from_run(saved) == TrainConfig(epochs=3)


def test_it_is_read_without_torch():
    code = "import sys, ppvae.config; ppvae.config.TrainConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0

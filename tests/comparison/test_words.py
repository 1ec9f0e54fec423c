"""How estimators are listed: commas separate estimators and options alike."""

import pytest

from ppvae.comparison.words import short_names, split_estimators
from ppvae.errors import UsageError


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("elbo", ("elbo",)),
        ("elbo,stl", ("elbo", "stl")),
        (["elbo", "stl"], ("elbo", "stl")),
        (" elbo , stl ", ("elbo", "stl")),
        (["elbo", "iwae:k=5,beta=1", "dreg:k=50"], ("elbo", "iwae:k=5,beta=1", "dreg:k=50")),
        ("elbo,iwae:k=5,beta=1,stl", ("elbo", "iwae:k=5,beta=1", "stl")),
        ("iwae,k=5,elbo", ("iwae:k=5", "elbo")),
        ("elbo,elbo:beta=4", ("elbo", "elbo:beta=4")),
        ("pyro:RenyiELBO,alpha=0.5,elbo", ("pyro:RenyiELBO,alpha=0.5", "elbo")),
        ("elbo:c=enumerate,z=score,stl", ("elbo:c=enumerate,z=score", "stl")),
        ("mine.py:Mine:k=5,beta=2,elbo", ("mine.py:Mine:k=5,beta=2", "elbo")),
        (["my_module:Mine", "elbo"], ("my_module:Mine", "elbo")),
        ("elbo,", ("elbo",)),
    ],
)
def test_split(words, wanted):
    assert split_estimators(words) == wanted


@pytest.mark.parametrize("words", ["k=5", ["elbo", "k=5"], "k=5,elbo"])
def test_an_option_without_its_estimator(words):
    with pytest.raises(UsageError, match=r"'k=5' in .* is an option without its estimator: write iwae:k=5"):
        split_estimators(words)


@pytest.mark.parametrize("words", ["", [], ","])
def test_none_at_all(words):
    with pytest.raises(UsageError, match="no estimators to compare"):
        split_estimators(words)


def test_one_listed_twice():
    with pytest.raises(UsageError, match="'elbo' is listed twice"):
        split_estimators("elbo,iwae,elbo")


def test_names_of_ones_own_are_shown_without_their_file():
    names = ["elbo", "own/mine.py:Mine:a=1", "pyro:Trace_ELBO", "iwae:k=5,beta=1"]
    assert list(short_names(names).values()) == ["elbo", "Mine:a=1", "pyro:Trace_ELBO", "iwae:k=5,beta=1"]
    two = ["a.py:Mine", "b.py:Mine", "c.py:Other"]
    assert list(short_names(two).values()) == ["a.py:Mine", "b.py:Mine", "Other"]
    assert short_names(["a.py:Mine", "Mine"])["a.py:Mine"] == "a.py:Mine"

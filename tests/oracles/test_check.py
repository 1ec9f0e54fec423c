"""`ppvae check` of an estimator: by name or by place, beside pairs of either kind."""

import pytest

from ppvae import cli
from ppvae.oracles import examining
from ppvae.oracles.subjects import named

OWN = """
from ppvae import Pair
from ppvae.estimators import IWAE, Claims, Objective
from ppvae.models.ppca import PPCA


class Right(IWAE):
    pass


class Wrong(IWAE):
    def objective(self, terms, knobs):
        bound = terms.log_weight.logsumexp(0)
        return Objective(bound.detach(), {"all": -bound.mean()})


class Asks(IWAE):
    def __init__(self, foo):
        super().__init__()


class Guide:
    def __init__(self, model):
        self.model = model

    def __call__(self, x, *, n=None):
        import pyro

        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.model.posterior(x))


PAIR = Pair(model=PPCA, guide=Guide, data="ppca_toy")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The place of the user's file; the examination asks one oracle."""
    monkeypatch.setattr(examining, "oracles", lambda: [named("gaussian")])
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def said(capsys, *argv):
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    return status, out, err


def test_ours_by_name(capsys, own):
    status, out, _ = said(capsys, "check", "iwae:k=2", "--seed", "3")
    assert status == 0
    assert "guide gradient" in out
    assert "every claim holds" in " ".join(out.split())
    assert "seed 3" in out


def test_ones_own_by_place(capsys, own):
    assert said(capsys, "check", f"{own}:Right:k=3")[0] == 0
    status, out, _ = said(capsys, "check", f"{own}:Wrong")
    assert status == 1
    assert "the mean is off by +1.6" in " ".join(out.split())  # log 5
    assert "not as claimed: value on gaussian, bound on gaussian" in " ".join(out.split())


def test_a_pair_is_a_pair(capsys, own):
    for place in (str(own), f"{own}:PAIR", "ppca"):
        status, out, _ = said(capsys, "check", place)
        assert status == 0
        assert "model and guide fit each other" in out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("iwae:kk=2", "estimator 'iwae:kk=2' has no option 'kk'"),
        ("elbo:beta=4", "elbo:beta=4 is held against what it estimates with beta=1: leave beta out"),
        ("iwaee", "no pair and no estimator 'iwaee', did you mean 'iwae'? Pairs: autoencoder,"),
        ("IWAE:k=5", "no pair and no estimator 'IWAE', did you mean 'iwae'?"),
        ("ppcaa", "no pair and no estimator 'ppcaa', did you mean 'ppca'?"),
        ("xyzzy", "no pair and no estimator 'xyzzy'. Pairs: autoencoder,"),
        ("xyzzy", "; estimators: elbo,"),
        (
            "{own}:Rigth",
            "has no pair and no estimator 'Rigth', did you mean 'Right'? Its pairs: PAIR",
        ),
        ("{own}:Other", "its estimators: Right, Wrong, Asks\n"),
        ("{own}:Guide", "has no pair and no estimator 'Guide'. Its pairs: PAIR"),
        ("{own}:Asks", "missing 1 required positional argument: 'foo'"),
        ("gone.py:Right", "no file gone.py: give the path"),
        ("{bad}:Right", "bad.py:1: invalid syntax: mend that line"),
        ("{claims}:Mine", "Claims(biased=...) names 'gide': name 'model', 'guide', or both"),
        ("{own}:Right:kk=2", "has no option 'kk'"),
        ("iwae --data digits", "iwae is an estimator, which is checked on pairs of its own: give it alone"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, own, argv, line):
    bad, claims = own.with_name("bad.py"), own.with_name("claims.py")
    bad.write_text("def f(:\n")
    claims.write_text("from ppvae.estimators import Claims\n\nCLAIMS = Claims(biased=('gide',))\n")
    status, out, err = said(capsys, "check", *argv.format(own=own, bad=bad, claims=claims).split())
    assert (status, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1

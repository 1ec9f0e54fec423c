"""`ppvae check PAIR --speed`: exit status 0 and a table, or one line that says what to do."""

import pytest

from ppvae.cli import main
from ppvae.speed.timing import PARTS

QUICK = ["--speed", "--no-compile", "--batch", "16"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One round of one step each."""
    monkeypatch.setattr("ppvae.speed.timing._goes_on", lambda spent, rounds, seconds: rounds == 0)
    monkeypatch.setattr("ppvae.speed.timing.BLOCK", 0.0)
    monkeypatch.setenv("PPVAE_TRACEBACK", "1")


def test_it_prints_and_ends_with_0(capsys):
    assert main(["check", "ppca", *QUICK, "--estimator", "iwae:k=3", "--sizes", "latent=2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "one training step of ppca by iwae:particles=3: 16 of ppca_toy a batch, K = 3, adam" in out
    for word in (*PARTS, "synchronizations", "graph breaks", "what to change"):
        assert word in out
    assert "no graph was timed: compiling was not asked for" in out


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ("nosuch --speed", 2, "no pair and no estimator 'nosuch'"),
        ("iwae:k=5 --speed", 2, "iwae:k=5 is an estimator, and it is a pair that takes steps"),
        ("vae --no-compile", 2, "--no-compile is an option of --speed"),
        ("vae --estimator iwae", 2, "--estimator is an option of --speed"),
        ("vae --batch 3", 2, "--batch is an option of --speed"),
        ("vae --speed --batch 0", 2, "batch=0 is too small"),
        ("vae --speed --device nothing", 2, "no device 'nothing'"),
        ("vae --speed --estimator nosuch", 2, "no estimator 'nosuch'"),
        ("vae --speed --data nosuch", 2, "no data set 'nosuch'"),
        ("vae --speeed", 2, "check has no option --speeed, did you mean '--speed'?"),
        ("vae --no-compil", 2, "check has no option --no-compil, did you mean '--no-compile'?"),
    ],
)
def test_what_cannot_be_is_one_line(words, status, line, capsys):
    assert main(["check", *words.split()]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ppvae: ")
    assert err.count("\n") == 1
    assert line in err


def test_a_pair_without_data_is_told_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from ppvae import registry\nimport dataclasses\n"
        "PAIR = dataclasses.replace(registry.find('ppca'), data=None)\n"
    )
    assert main(["check", "own.py:PAIR", *QUICK]) == 1
    err = capsys.readouterr().err
    assert "the pair has no data, but a field 'x'; fix: give some: --data NAME" in err
    assert err.count("\n") == 1

"""`ppvae new NAME`: what it writes passes at once, and it never overwrites."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ppvae
from ppvae.errors import UsageError
from ppvae.linter import check
from ppvae.scaffold import new

ROOT = Path(__file__).parent.parent


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_new_pair_passes_its_test_at_once(tmp_path):
    written = new("my_vae", tmp_path)
    assert [path.name for path in written] == ["my_vae.py", "test_my_vae.py"]
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_written_test_can_fail(tmp_path):
    pair, _ = new("my_vae", tmp_path)
    pair.write_text(
        pair.read_text().replace('pyro.sample("z", dist.Normal(loc,', 'pyro.sample("zz", dist.Normal(loc,')
    )
    done = run_pytest(tmp_path)
    assert done.returncode == 1
    assert "zz" in done.stdout


def test_the_pair_is_found_by_path_from_anywhere_and_is_sound(tmp_path):
    path, _ = new("deep", tmp_path / "a" / "b")
    pair = ppvae.find(f"{path}:PAIR")
    assert pair.name == "deep"
    report = check(pair)
    assert not report.findings, str(report)


def test_the_files_are_tidy(tmp_path):
    for path in new("my_other_vae", tmp_path):
        text = path.read_text()
        assert "NAME" not in text
        assert "CLASS" not in text
        ast.parse(text)
        assert max(map(len, text.splitlines())) <= 110
    names = {
        node.name
        for node in ast.walk(ast.parse((tmp_path / "my_other_vae.py").read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert names == {"MyOtherVaeModel", "MyOtherVaeGuide"}


@pytest.mark.parametrize(
    "name", ["1vae", "my-vae", "a b", "", "class", "../x", "my.vae", "test_x", "_x", "torch", "json"]
)
def test_a_bad_name_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(UsageError) as error:
        new(name, tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", ["vae2.py", "test_vae2.py"])
def test_nothing_is_overwritten(tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(UsageError, match=existing):
        new("vae2", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        new("vae2", tmp_path / "file")

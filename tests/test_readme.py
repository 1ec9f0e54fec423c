"""The README tells the truth: its code runs, its table is the committed record, its links lead somewhere."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from ppvae.cli import COMMANDS
from ppvae.estimators import ESTIMATORS
from ppvae.oracles import examine
from ppvae.oracles.subjects import named
from ppvae.registry import names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_its_python_runs_as_it_stands(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _ = blocks("python")
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert "nats per datum" in capsys.readouterr().out


def test_its_python_is_that_of_the_examples():
    for code, name in zip(blocks("python"), ("own_pair.py", "own_estimator.py"), strict=True):
        assert code.strip() in (ROOT / "examples" / name).read_text()


def test_the_estimator_that_it_shows_holds_what_it_claims():
    report = examine(f"{ROOT}/examples/own_estimator.py:Mine:k=3", subjects=[named("gaussian")])
    assert report.ok
    assert "every claim holds" in report.summary


def test_its_commands_exist():
    used = {
        line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("ppvae ")
    }
    assert used <= set(COMMANDS)
    assert set(COMMANDS) - used == set()


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.name)
def test_its_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_its_table_is_what_the_committed_record_says():
    spec = importlib.util.spec_from_file_location("readme_script", ROOT / "benchmarks" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    results = json.loads((ROOT / "benchmarks" / "results" / "pairs.json").read_text())
    assert f"{script.START}\n{script.table(results)}\n{script.END}" in README
    assert set(results["pairs"]) == set(names())


def test_no_file_but_the_embedded_set_is_over_a_megabyte():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    large = {f.name for f in files if f.is_file() and f.stat().st_size > 1_000_000}
    assert large <= {"digits.npz"}


def test_every_estimator_is_named_and_explained():
    for name in ESTIMATORS:
        assert f"`{name}`" in README
    page = importlib.util.spec_from_file_location("estimators_page", ROOT / "benchmarks" / "estimators.py")
    assert page is not None
    assert page.loader is not None
    module = importlib.util.module_from_spec(page)
    page.loader.exec_module(module)
    assert (ROOT / "docs" / "estimators.md").read_text() == module.page(), "run benchmarks/estimators.py"

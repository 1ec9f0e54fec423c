"""Every mutant of tests/mutations can be made; the script that judges them tells killed from let through."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("mutations_script", ROOT / "benchmarks" / "mutations.py")
assert _spec is not None
assert _spec.loader is not None
script = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = script  # dataclasses look their module up
_spec.loader.exec_module(script)

FOUND, WRONG = script.mutants(ROOT)


def test_the_files_are_well_formed():
    assert WRONG == []


@pytest.mark.parametrize("mutant", FOUND, ids=lambda m: f"{m.topic}-{m.what}")
def test_each_can_be_made(mutant):
    assert script.problem(mutant, ROOT) is None
    if mutant.file.endswith(".py"):
        compile(script.changed(mutant, ROOT), mutant.file, "exec")


CODE = """
    def double(x):
        return 2 * x


    def half(x):
        return x / 2  # exactly
"""
TESTS = """
    from code_of import double, half


    def test_double():
        assert double(3) == 6
"""
ENTRY = {"file": "code_of.py", "tests": ["tests/test_it.py"]}
ENTRIES = {
    "killed": {"what": "adds", "old": "2 * x", "new": "2 + x"},
    "survived": {"what": "halves wrongly", "old": "x / 2", "new": "x / 3"},
    "explained": {"what": "says less", "old": "  # exactly", "new": "", "survives": "a comment"},
    "revived": {"what": "subtracts", "old": "2 * x", "new": "2 - x", "survives": "it does not"},
    "broken": {"what": "opens a bracket", "old": "2 * x", "new": "(2 * x"},
    "invalid": {"what": "is ambiguous", "old": "return", "new": "yield"},
    "untested": {"what": "has a red test", "old": "2 * x", "new": "2", "tests": ["tests/test_red.py"]},
}


@pytest.fixture
def project(tmp_path):
    """A checkout with one topic a kind of verdict, named after it."""
    root = tmp_path / "project"
    (root / "tests" / "mutations").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    (root / "code_of.py").write_text(dedent(CODE).lstrip())
    (root / "linked.py").symlink_to("code_of.py")
    (root / ".gitignore").write_text("ignored/\n")
    (root / "ignored").mkdir()
    (root / "ignored" / "large").write_text("no part of the copy")
    (root / "tests" / "test_it.py").write_text(dedent(TESTS).lstrip())
    (root / "tests" / "test_red.py").write_text("def test_red():\n    assert False\n")
    for name, entry in ENTRIES.items():
        text = json.dumps([{**ENTRY, **entry}])  # JSON is YAML
        (root / "tests" / "mutations" / f"{name}.yaml").write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def test_a_copy_holds_what_git_would_track(project, tmp_path):
    script.copy(project, tmp_path / "copy")
    assert not (tmp_path / "copy" / "ignored").exists()
    assert not (tmp_path / "copy" / ".git").exists()
    assert (tmp_path / "copy" / "linked.py").is_symlink()


def test_each_verdict_end_to_end(project, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert script.main(["--jobs", "2", "--out", str(out)], project) == 1
    topics = json.loads(out.read_text())["topics"]
    assert {name: topic["mutants"][0]["status"] for name, topic in topics.items()} == {n: n for n in ENTRIES}
    assert "test_double" in topics["killed"]["mutants"][0]["by"]
    said = capsys.readouterr().out
    assert "a comment" in said
    assert "occurs 2 times" in said
    assert (project / "code_of.py").read_text() == dedent(CODE).lstrip()
    # One topic alone: 0, and the others keep their records.
    assert script.main(["--only", "killed", "--out", str(out)], project) == 0
    assert set(json.loads(out.read_text())["topics"]) == set(ENTRIES)
    with pytest.raises(SystemExit, match="no topic 'kiled'"):
        script.main(["--only", "kiled", "--out", str(out)], project)


@pytest.mark.parametrize(
    ("code", "output", "explained", "status"),
    [
        (1, "E   assert 5 == 6\nFAILED tests/test_it.py::test_double - assert 5 == 6", False, "killed"),
        (1, "E   NameError: name 'y' is not defined\nFAILED tests/test_it.py::test_double", False, "broken"),
        (1, "E   ImportError: cannot import name 'y'\nFAILED tests/test_it.py::test_double", False, "broken"),
        (2, "E   SyntaxError: invalid syntax\nERROR tests/test_it.py", False, "broken"),
        (4, "ERROR: not found: tests/test_it.py::test_gone", False, "broken"),
        (5, "no tests ran", False, "broken"),
        (0, "1 passed", False, "survived"),
        (0, "1 passed", True, "explained"),
        (None, "", False, "slow"),
    ],
)
def test_a_verdict_is_read_off_pytest(code, output, explained, status):
    assert script.reading(code, output, explained)[0] == status


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("text", "no mapping"),
        ({**ENTRY, "what": "w", "old": "a"}, "has no 'new'"),
        ({**ENTRY, "what": "w", "old": "a", "new": "b", "test": []}, "unknown key 'test'"),
        ({**ENTRY, "what": "w", "old": 1, "new": "b"}, "'old' is no text"),
        ({**ENTRY, "what": " ", "old": "a", "new": ""}, "'what' is empty"),
        ({**ENTRY, "what": "w", "old": "a", "new": "", "tests": "t"}, "'tests' is no list"),
    ],
)
def test_a_malformed_entry_is_named(project, entry, problem):
    (project / "tests" / "mutations" / "killed.yaml").write_text(json.dumps([entry]))
    found, (wrong,) = script.mutants(project, ["killed"])
    assert found == []
    assert problem in wrong

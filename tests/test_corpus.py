"""The linter against a corpus written by somebody who had not read its code.

Every broken pair is refused with the right message at the right line, every sound pair passes.
"""

import importlib.util
import re
from pathlib import Path

import pytest

from ppvae.linter import check

HERE = Path(__file__).parent
BROKEN = sorted((HERE / "broken_pairs").glob("*.py"))
SOUND = sorted((HERE / "sound_pairs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(f"corpus_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_corpus_is_there():
    assert len(BROKEN) >= 20
    assert len(SOUND) >= 12


@pytest.mark.parametrize("path", BROKEN, ids=lambda p: p.stem)
def test_a_broken_pair_is_refused_with_the_right_message(path):
    module = load(path)
    report = check(module.PAIR, module.data())
    lines = path.read_text().splitlines()
    marked = {i for i, line in enumerate(lines, 1) if "# <- here" in line}
    found = [f for f in report.findings if f.level == "error"]
    assert found, "no error found"
    told = [str(f) for f in found]
    right = [f for f in found if all(re.search(word, str(f), re.I | re.S) for word in module.EXPECT["says"])]
    assert right, f"no finding says {module.EXPECT['says']}: {told}"
    fixing = [
        f
        for f in right
        if all(re.search(word, f.fix or str(f), re.I | re.S) for word in module.EXPECT["fix"])
    ]
    assert fixing, f"no finding offers {module.EXPECT['fix']}: {told}"
    places = {(Path(f.file or "").name, f.line) for f in fixing}
    assert places & {(path.name, line) for line in marked}, f"expected a line of {marked}: {told}"


@pytest.mark.parametrize("path", SOUND, ids=lambda p: p.stem)
def test_a_sound_pair_passes(path):
    module = load(path)
    report = check(module.PAIR, module.data())
    assert report.ok, [str(f) for f in report.findings]

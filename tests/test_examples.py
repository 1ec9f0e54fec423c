"""Every lesson runs from top to bottom, and its own assertions hold."""

import re
import runpy
import shutil
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import pytest
import torch

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_and_draws_its_picture(lesson, tmp_path, capsys, monkeypatch):
    """In a copy, so that the committed picture stays."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    copy = shutil.copy(lesson, tmp_path)
    before, style = torch.get_default_dtype(), matplotlib.rcParams.copy()
    try:
        runpy.run_path(copy, run_name="__main__")
    finally:
        torch.set_default_dtype(before)
        matplotlib.rcParams.update(style)
        matplotlib.pyplot.close("all")
    assert (tmp_path / lesson.with_suffix(".png").name).stat().st_size > 10_000
    assert capsys.readouterr().out.strip()


def test_the_page_of_lessons_shows_each_with_its_picture():
    page = (ROOT / "docs" / "lessons.md").read_text(encoding="utf-8")
    for lesson in LESSONS:
        assert f"../examples/{lesson.name}" in page
        assert f"../examples/{lesson.stem}.png" in page
        assert lesson.with_suffix(".png").is_file()
    assert len(re.findall(r"^## ", page, re.M)) == len(LESSONS)

"""Run every lesson of examples/ and make docs/lessons.md: what it says, what it prints, and its picture.

python benchmarks/lessons.py
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """# Lessons

Each is one file that runs from top to bottom in seconds: `python examples/01_why_a_bound.py`. What it
printed and drew is below; `benchmarks/lessons.py` made this page.
"""


def lesson(path: Path) -> str:
    """A section: the lesson's docstring, its last words, its output, its picture."""
    source = path.read_text(encoding="utf-8")
    title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    _, _, ending = source.partition("# %% What to remember.")
    remembered = "\n".join(re.sub(r"^# ?", "", line) for line in ending.strip().splitlines()).strip()
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True, cwd=ROOT)
    return "\n\n".join(
        [
            f"## {path.stem[:2]}. {title.rstrip('.')}",
            text.strip("\n"),
            f"[The lesson](../examples/{path.name}).",
            f"```text\n{ran.stdout.strip()}\n```",
            f"![What the lesson draws](../examples/{path.stem}.png)",
            remembered,
        ]
    )


def main() -> None:
    sections = [lesson(path) for path in sorted((ROOT / "examples").glob("[0-9]*.py"))]
    page = ROOT / "docs" / "lessons.md"
    page.write_text(HEAD + "\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    print(f"written: {page}")


if __name__ == "__main__":
    main()

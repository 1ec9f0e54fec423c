"""`Page`: a report as one HTML file that holds its own style and figures and asks nothing of a network."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppvae.errors import UsageError
from ppvae.reports.numerals import numeral
from ppvae.reports.style import STYLE
from ppvae.runs import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None

PIXELS_PER_INCH = 108
"""The size at which figures are shown: one 10 inches wide fills the page."""

MOST_COLORS = 2**15
"""A picture with more has photographs in it."""

_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}
_NUMBER = re.compile(r"^(?:[(+\-±<>≤≥≈~]|\s)*(?:\d|nan|inf)|^–?$")
# The browser itself then refuses whatever is not in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page:
    """A report, from top to bottom in the order of the calls.

        page = Page("vae on digits", "What was measured, and how.")
        page.section("Bounds", "Higher is better.")
        page.table(["estimator", "elbo (nats per datum)"], [["iwae", "-18.31 ± 0.04"]], caption="...")
        page.figure(figure, "The test elbo over steps.")
        page.write("report.html")

    Every text is escaped; `words between backticks` are set as code, and an empty line begins a paragraph.
    """

    def __init__(self, title: str, lead: str = ""):
        self.title, self.lead = title, lead
        self._parts: list[str] = []
        self._headings: list[tuple[str, str]] = []

    def section(self, heading: str, text: str = "") -> None:
        """A heading, which the page's contents name, and what there is to say first."""
        anchor = f"{len(self._headings) + 1}-{re.sub(r'[^a-z0-9]+', '-', heading.lower()).strip('-')}"
        self._headings.append((anchor, heading))
        self._parts.append(f'<h2 id="{anchor}">{_inline(heading)}</h2>{_paragraphs(text)}')

    def text(self, text: str) -> None:
        """Plain paragraphs."""
        self._parts.append(_paragraphs(text))

    def note(self, text: str) -> None:
        """What a reader must not miss, set apart."""
        self._parts.append(f'<aside class="note">{_paragraphs(text)}</aside>')

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str = "") -> None:
        """A table; numbers are aligned to the right. Units belong into the columns' names or the caption.

        Args:
            rows: texts or numbers; None is a dash. The last cell of a row with fewer cells than columns
                spans the rest, as the reason for missing numbers does.

        Raises:
            UsageError: a row with more cells than columns.
        """
        cells = [[_shown(cell) for cell in row] for row in rows]
        for row in cells:
            if len(row) > len(columns) or not row:
                raise UsageError(f"a row of {len(row)} cells in {len(columns)} columns: give one for each")
        full = [row for row in cells if len(row) == len(columns)]
        right = [bool(full) and all(_NUMBER.match(row[i]) for row in full) for i in range(len(columns))]
        head = "".join(
            f'<th scope="col"{_side(right[i])}>{_inline(name)}</th>' for i, name in enumerate(columns)
        )
        body = "".join(f"<tr>{_row(row, right)}</tr>" for row in cells)
        says = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure class="table">{says}<div class="scroll" tabindex="0">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>"
        )

    def figure(self, figure: Figure | str | Path, caption: str = "", alt: str | None = None) -> None:
        """A matplotlib figure, or the path of a picture, with what it shows below it.

        Args:
            alt: what a reader who cannot see it is told; none: the caption.
        """
        if isinstance(figure, str | Path):
            source, size = _picture(Path(figure)), ""
        else:
            source, size = _drawn(figure), f' width="{figure.get_figwidth() * PIXELS_PER_INCH:.0f}"'
        told = html.escape(alt if alt is not None else caption, quote=True)
        says = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
        self._parts.append(f'<figure class="picture"><img src="{source}"{size} alt="{told}">{says}</figure>')

    def html(self) -> str:
        """The whole page."""
        contents = ""
        if len(self._headings) > 2:
            items = "".join(f'<li><a href="#{anchor}">{_inline(h)}</a></li>' for anchor, h in self._headings)
            contents = f'<nav aria-label="contents"><ol>{items}</ol></nav>'
        lead = f'<div class="lead">{_paragraphs(self.lead)}</div>' if self.lead else ""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{html.escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{_inline(self.title)}</h1>{lead}{contents}</header>\n"
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Raises:
            RunError: the file cannot be written.
        """
        path = Path(path)
        files.replace(path, self.html().encode())
        return path


def _shown(cell: Cell) -> str:
    return cell if isinstance(cell, str) else numeral(cell)


def _row(row: list[str], right: list[bool]) -> str:
    missing = len(right) - len(row)
    cells = [f"<td{_side(right[i])}>{_inline(cell)}</td>" for i, cell in enumerate(row)]
    if missing:
        cells[-1] = f'<td class="spanning" colspan="{missing + 1}">{_inline(row[-1])}</td>'
    return "".join(cells)


def _side(right: bool) -> str:
    return ' class="number"' if right else ""


def _paragraphs(text: str) -> str:
    found = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    return "".join(f"<p>{_inline(part)}</p>" for part in found)


def _inline(text: str) -> str:
    """Escaped; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _drawn(figure: Figure) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    # Twice the size at which it is shown, for sharp screens.
    figure.savefig(buffer, format="png", dpi=2 * PIXELS_PER_INCH)
    picture = Image.open(buffer).convert("RGB")
    if (
        picture.getcolors(MOST_COLORS) is not None
    ):  # lines and letters: a third of the size, and no difference
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, format="PNG", optimize=True)
    return _embedded(small.getvalue(), "image/png")


def _picture(path: Path) -> str:
    kind = _KINDS.get(path.suffix.lower())
    if kind is None or not path.is_file():
        raise UsageError(f"{path} is no picture: give a matplotlib figure, or a {', '.join(_KINDS)} file")
    return _embedded(path.read_bytes(), kind)


def _embedded(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

"""A report page: escaped, complete in itself, written whole or not at all."""

import base64
import io
import re

import pytest
from matplotlib.figure import Figure
from PIL import Image

from ppvae.errors import RunError, UsageError
from ppvae.reports import Page, interval, measured, numeral, signed


def line_figure() -> Figure:
    figure = Figure(figsize=(4.0, 2.0))
    figure.subplots().plot([0, 1, 2], [1.0, 0.5, 2.0])
    return figure


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_every_text_is_escaped():
    evil = '<script>alert("1")</script> & more'
    page = Page(evil, evil)
    page.section(evil, evil)
    page.text(evil)
    page.note(evil)
    page.table([evil], [[evil]], caption=evil)
    page.figure(line_figure(), evil, alt=evil)
    html = page.html()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 9
    assert 'alt="&lt;script&gt;alert(&quot;1&quot;)' in html


def test_backticks_are_code_and_empty_lines_paragraphs():
    page = Page("t")
    page.section("s", "run `ppvae train <pair>` now\n\nthen rest")
    assert "<p>run <code>ppvae train &lt;pair&gt;</code> now</p><p>then rest</p>" in page.html()


def test_nothing_is_fetched_from_anywhere():
    page = Page("t")
    page.section("s")
    page.figure(line_figure(), "c")
    html = page.html()
    assert "default-src 'none'" in html
    assert "http:" not in html
    assert "https:" not in html
    assert not re.search(r"<(link|script|iframe|object)\b", html)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', html))


def test_light_and_dark():
    html = Page("t").html()
    assert 'name="color-scheme" content="light dark"' in html
    assert "prefers-color-scheme: dark" in html


def test_the_order_is_that_of_the_calls():
    page = Page("t")
    page.section("first")
    page.note("second")
    page.section("third")
    html = page.html()
    assert html.index("first") < html.index("second") < html.index("third")


def test_contents_from_three_sections_on():
    page = Page("t")
    for heading in ("One", "Two"):
        page.section(heading)
    assert "<nav" not in page.html()
    page.section("Two")
    html = page.html()
    anchors = re.findall(r'<a href="#([^"]+)"', html)
    assert len(anchors) == len(set(anchors)) == 3
    assert all(f'<h2 id="{anchor}"' in html for anchor in anchors)


def test_numbers_stand_right_and_texts_left():
    page = Page("t")
    page.table(["name", "value", "mixed"], [["a", 1.5, "x"], ["b", None, "2"], ["c", "-3.1 ± 0.2", "y"]])
    html = page.html()
    assert '<th scope="col">name</th>' in html
    assert '<th scope="col" class="number">value</th>' in html
    assert '<th scope="col">mixed</th>' in html
    assert '<td class="number">1.500</td>' in html
    assert '<td class="number">–</td>' in html


def test_a_short_row_spans_the_rest_and_a_long_one_is_refused():
    page = Page("t")
    page.table(["name", "value", "unit"], [["a", 1, "s"], ["b", "refused: no"]])
    assert '<td class="spanning" colspan="2">refused: no</td>' in page.html()
    with pytest.raises(UsageError, match="a row of 2 cells in 1 columns"):
        page.table(["name"], [["a", "b"]])


def test_a_figure_is_embedded_sharp_and_keeps_its_size():
    page = Page("t")
    page.figure(line_figure(), "what it shows")
    html = page.html()
    (picture,) = pictures(html)
    assert picture.size == (4 * 216, 2 * 216)
    assert 'width="432"' in html
    assert "what it shows</figcaption>" in html


def test_a_figure_is_what_was_drawn():
    figure = Figure(figsize=(1.0, 1.0), facecolor="#0072b2")
    page = Page("t")
    page.figure(figure)
    (picture,) = pictures(page.html())
    assert picture.convert("RGB").getpixel((100, 100)) == (0, 0x72, 0xB2)


def test_a_picture_by_its_path(tmp_path):
    Image.new("RGB", (3, 2), (255, 0, 0)).save(tmp_path / "a.png")
    page = Page("t")
    page.figure(tmp_path / "a.png", "red")
    (picture,) = pictures(page.html())
    assert picture.size == (3, 2)
    with pytest.raises(UsageError, match="is no picture"):
        page.figure(tmp_path / "missing.png")


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    page = Page("first")
    assert page.write(tmp_path / "r.html") == tmp_path / "r.html"
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page.html()
    monkeypatch.setattr(
        "os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(RunError, match="free space"):
        Page("second").write(tmp_path / "r.html")
    assert "first" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (3, "3"), (0.0, "0.000"), (1.5, "1.500"), (-97.314, "-97.31"), (12345.678, "12346"),
        (1e-5, "1.000e-5"), (-2.5e9, "-2.500e9"), (float("inf"), "inf"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_numeral(value, text):
    assert numeral(value) == text


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (-97.3142, 0.1234, "-97.31 ± 0.12"), (0.216279, 0.00032, "0.21628 ± 0.00032"),
        (12345.6, 33.0, "12346 ± 33"), (1.0, None, "1.000"), (None, 0.1, "–"),
        (2e8, 1e5, "(2.0000 ± 0.0010)e8"), (1e-9, 2e-10, "(1.00 ± 0.20)e-9"), (1.5, 0.0, "1.50000 ± 0"),
        (float("nan"), 1.0, "nan"), (-96.4, 1e-14, "-96.4000 ± 0"), (-0.001, 0.2, "0.00 ± 0.20"),
    ],
)  # fmt: skip
def test_measured(value, stderr, text):
    assert measured(value, stderr) == text


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (1.6, 0.577, "+1.60"), (-1.6, 0.577, "-1.60"), (-0.004, 0.577, "0.00"), (0.004, 0.577, "0.00"),
        (0.0506, 0.0041, "+0.0506"), (1.6, None, "+1.60"), (-0.25, None, "-0.250"), (0.0, None, "0.00"),
        (0.0, 0.0, "0.00"), (None, 1.0, "–"), (float("nan"), 1.0, "nan"),
    ],
)  # fmt: skip
def test_signed(value, stderr, text):
    assert signed(value, stderr) == text


@pytest.mark.parametrize(
    ("low", "high", "stderr", "text"),
    [
        (-0.884, 4.084, 0.577, "[-0.88, +4.08]"), (-0.0032, 0.8213, 0.19, "[-0.003, +0.821]"),
        (0.0, 1.0, 0.2, "[0.00, +1.00]"), (-3.2, 1.0, 12.0, "[-3, +1]"), (0.5, 0.5, 0.0, "[+0.500, +0.500]"),
    ],
)  # fmt: skip
def test_interval(low, high, stderr, text):
    """An end that is not 0 is not shown as 0."""
    assert interval(low, high, stderr) == text

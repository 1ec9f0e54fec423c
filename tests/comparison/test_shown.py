"""What is shown of a comparison: the same numbers in the terminal, the page and the JSON."""

import html
import io
import math
import re

import pytest
from rich.console import Console

from ppvae.comparison.blocks import blocks, details
from ppvae.comparison.cells import Cell
from ppvae.comparison.figures import figures, log_ticks
from ppvae.comparison.findings import GroupFinding, Laboratory, Probe
from ppvae.comparison.moments import Estimate
from ppvae.comparison.report import report
from ppvae.comparison.result import Comparison


def cell(name: str, seed: int, elbo: float, log_p: float | None = None, **more) -> Cell:
    final = {
        "elbo": elbo, "elbo_stderr": 0.31, "log_likelihood": log_p, "log_likelihood_stderr": 0.27, "k": 50,
        "n": 90, "n_elbo": 100, "split": "test",
    }  # fmt: skip
    points = [
        {"step": s, "seconds": s / 100 * (1 + seed), "elbo": elbo - 50 / (1 + s), "elbo_stderr": 1.0,
         "log_likelihood": log_p} for s in (0, 10, 40, 100)
    ]  # fmt: skip
    return Cell(
        name,
        seed,
        **{"status": "done", "steps": 100, "seconds": 2.5, "curve": points, "final": final, **more},
    )


def group(bias: float | None, z: float | None, parameters: int = 40) -> GroupFinding:
    return GroupFinding(
        parameters=parameters,
        norm=Estimate(2.0, 0.1),
        variance=Estimate(12.34, 0.56),
        variance_time=0.0789,
        snr=0.4567,
        snr_per_parameter=0.321,
        dsnr=Estimate(0.987, 0.065) if parameters > 2 else None,
        target="elbo" if bias is not None else None,
        bias=None if bias is None else Estimate(bias, 0.011),
        bias_squared=None if bias is None else Estimate(bias**2, 0.012),
        z=z,
        reference=None if bias is None else "exact in closed form",
    )


def laboratory() -> Laboratory:
    def one(name: str, bias: float | None, z: float | None) -> Probe:
        groups = {"model": group(bias, z), "guide": group(bias, z, 2)}
        return Probe(name, 0.0042, (0.0041, 0.0050), Estimate(-97.5, 0.2), groups)

    probes = [one("elbo", 0.01, 0.4), one("stl:k=5", 0.53, 7.6), one("wake", None, None)]
    return Laboratory(
        [*probes, Probe("dreg", refused="DReG needs <leaves>")],
        repeats=100,
        rows=64,
        parameters={"model": 40, "guide": 2},
        at="those after 100 steps of elbo (seed 0)",
        exact_elbo=-97.4,
        evidence=-96.1,
    )


def comparison() -> Comparison:
    cells = []
    for seed in (0, 1, 2):
        cells += [
            cell("elbo", seed, -98.0 - seed, -97.0 - seed),
            cell("stl:k=5", seed, -97.5 - 1.2 * seed, -96.4),
        ]
        cells.append(Cell("wake", seed, "done" if seed else "diverged", **(vars_of(seed))))
        cells.append(Cell("dreg", seed, "refused", "DReG needs <leaves>"))
    data = {
        "name": "digits",
        "hash": "0123abcd",
        "binarization": "none",
        "sizes": {"train": 1000, "test": 100},
    }
    return Comparison(
        "vae",
        ["elbo", "stl:k=5", "wake", "dreg"],
        config={"curve_n": 50, "curve_k": 16, "seeds": 3, "seed": 0},
        training={"batch": 64, "lr": 1e-3, "optimizer": "adam"},
        data=data,
        cells=cells,
        laboratory=laboratory(),
        environment={"device": "cpu", "cpu": "a CPU", "threads": 1, "versions": {"torch": "2"}},
    )


def vars_of(seed: int) -> dict:
    if seed == 0:
        broken = {"elbo": -math.inf, "log_likelihood": -50.0}  # which no mean may count
        return {"line": "the test elbo is -inf nats per datum", "steps": 30, "final": broken}
    made = cell("wake", seed, -99.0, -98.0)
    return {"steps": 100, "seconds": 2.5, "final": made.final, "curve": made.curve}


def printed(found: Comparison, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(found.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_holds_every_number_of_the_table():
    found = comparison()
    page = html.unescape(report(found, {}).html())
    cells = [text for block in blocks(found) for row in block.rows for text in row]
    assert len(cells) > 60
    for text in cells:
        assert f">{text}</td>" in page, text
    for block in blocks(found):
        for note in block.notes:
            assert note in page


def test_the_terminal_holds_every_number_of_the_table():
    found = comparison()
    shown = printed(found, width=200)
    for block in blocks(found):
        for text in (text for row in block.rows for text in row):
            assert text in shown, text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(len(line) for line in printed(comparison(), width).splitlines()) <= width


def test_after_training():
    block = blocks(comparison())[0]
    rows = {row[0]: row for row in block.rows}
    assert block.title == "after training, 3 seeds"
    # -98, -99, -100: mean -99, sd 1, stderr 1 / sqrt 3
    assert rows["elbo"][1:3] == ["-99.00 ± 0.58", "-98.00 ± 0.58"]
    # differences of log p: .6, 1.6, 2.6: mean 1.6, stderr 1 / sqrt 3, half width 4.3027 / sqrt 3
    assert rows["stl:k=5"][3] == "+1.60 [-0.88, +4.08]"
    assert rows["elbo"][3] == "–"
    assert rows["elbo"][4:] == ["25.0", "100"]
    assert rows["wake"][1:3] == ["-99.0000 ± 0", "-98.0000 ± 0"]
    assert rows["dreg"] == ["dreg", "refused: DReG needs <leaves>"]
    assert "wake: 2 of 3 seeds came to an end; diverged: the test elbo is -inf nats per datum" in block.notes
    assert "log p(x) is on 90 test data, the elbo on 100." in block.notes


def test_one_seed_has_no_interval_and_says_so():
    found = comparison()
    found.cells = [c for c in found.cells if c.seed == 1]
    block = blocks(found)[0]
    rows = {row[0]: row for row in block.rows}
    assert rows["elbo"][1] == "-99.00 ± 0.31"  # over the test data
    assert rows["stl:k=5"][3] == "+1.60"
    assert (
        "One seed: ± is the standard error over test data, and differences have no interval." in block.notes
    )


def test_the_laboratory():
    model, guide = blocks(comparison())[1:]
    rows = {row[0]: row for row in model.rows}
    assert model.title == "gradient of the model, 40 parameters"
    assert rows["elbo"][1:] == ["0.010 ± 0.011", "0.4", "12.3", "0.457", "0.987", "4.20", "0.0789"]
    assert rows["stl:k=5"][1:3] == ["0.530 ± 0.011", "7.6 !"]
    assert rows["wake"][1:3] == ["–", "–"]
    assert rows["dreg"] == ["dreg", "refused: DReG needs <leaves>"]
    assert "Bias of elbo, stl:k=5: from the gradient of the elbo, exact in closed form." in model.notes
    assert "No bias is told of wake: no target to hold it against." in model.notes
    assert {row[0]: row for row in guide.rows}["elbo"][5] == "–"  # two parameters


def test_details_have_the_standard_errors():
    rows = {row[0]: row for row in details(laboratory(), "model").rows}
    assert rows["elbo"][1:] == [
        "2.00 ± 0.10", "0.000 ± 0.012", "12.34 ± 0.56", "0.321", "0.987 ± 0.065", "4.10 to 5.00",
    ]  # fmt: skip


def test_what_one_refuses_is_told_once_below():
    assert printed(comparison(), 200).count("dreg: refused: DReG needs <leaves>") == 1


def test_what_failed_is_told_as_that():
    found = comparison()
    assert found.laboratory is not None
    found.laboratory.probes[-1] = Probe("dreg", failed="mine.py:3: ValueError: no <leaves>")
    rows = {row[0]: row for row in blocks(found)[1].rows}
    assert rows["dreg"] == ["dreg", "failed: mine.py:3: ValueError: no <leaves>"]
    shown = printed(found, 200)
    assert "dreg: refused: DReG needs <leaves>" in shown  # by its trainings
    assert shown.count("dreg: failed: mine.py:3: ValueError: no <leaves>") == 1
    assert found.failed() == ["dreg in the laboratory"]


def renamed(found: Comparison, before: str, after: str) -> Comparison:
    found.estimators = [after if name == before else name for name in found.estimators]
    assert found.laboratory is not None
    for part in (*found.cells, *found.laboratory.probes):
        part.estimator = after if part.estimator == before else part.estimator
    return found


def test_eighty_columns_break_no_name_and_no_number():
    """What there is no room for is left out; the page has it."""
    found = renamed(comparison(), "stl:k=5", "elbo:z=straight_through")
    shown = printed(renamed(found, "wake", "own/estimators/mine.py:Wake:k=3"), 80)
    for text in ("elbo:z=straight_through ", " Wake:k=3 ", " -98.70 ± 0.69 ", " +1.60 [-0.88, +4.08]"):
        assert text in shown
    assert sum(line.startswith(" elbo:z=straight_through ") for line in shown.splitlines()) == 3
    assert "time" in shown
    assert "var. x" not in shown
    assert "steps\n" not in shown
    assert "Wake:k=3 is own/estimators/mine.py:Wake:k=3." in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_sixty_columns_break_numbers_before_names():
    found = renamed(comparison(), "stl:k=5", "elbo:z=score")
    shown = printed(found, 60)
    assert sum(line.startswith(" elbo:z=score ") for line in shown.splitlines()) == 3
    assert max(map(len, shown.splitlines())) <= 60


def test_the_terminal_says_what_its_columns_are():
    shown = " ".join(printed(comparison(), 80).split())
    for words in ("z: that in standard errors of its noise, above 3 (!)", "SNR: |mean| / sd", "DSNR: along"):
        assert shown.count(words) == 1


def test_why_there_is_no_truth():
    found = comparison()
    assert found.laboratory is not None
    found.laboratory.probes[2].groups["model"].target = "K = 2"
    found.laboratory.probes[2].groups["model"].without = "its truth failed: MemoryError"
    assert "No bias is told of wake: its truth failed: MemoryError." in blocks(found)[1].notes


def test_where_nothing_was_done_nothing_is_said_of_seeds():
    found = comparison()
    found.cells = [c for c in found.cells if c.estimator == "dreg"]
    found.estimators = ["dreg"]
    found.laboratory = None
    assert blocks(found)[0].notes == []
    assert found.figures() == {}
    assert found.is_empty()
    assert not comparison().is_empty()


def test_the_page_escapes_and_speaks_of_everything():
    found = comparison()
    page = report(found, found.figures()).html()
    assert "<leaves>" not in page
    assert "&lt;leaves&gt;" in page
    assert page.count('src="data:image/png') == 3
    for words in ("0123abcd", "1000 train, 100 test", "log p(x), exactly", "-96.1", "torch 2", "Rainforth"):
        assert words in page


def test_figures_say_what_they_show():
    found = figures(comparison())
    assert set(found) == {"curves", "differences", "gradients"}
    curves = found["curves"].axes
    assert [axes.get_xlabel() for axes in curves] == ["step", "seconds of training"] * 2
    assert curves[0].get_ylabel() == "test elbo (nats per datum)"
    labels = {line.get_label() for line in curves[0].lines}
    assert {"elbo", "stl:k=5", "wake"} <= labels
    assert "dreg" not in labels
    assert [label.get_text() for label in found["differences"].axes[0].get_yticklabels()] == [
        "stl:k=5",
        "wake",
    ]
    assert len(curves[0].collections) == 3  # a band for each of several seeds
    assert [axes.get_title(loc="left") for axes in found["gradients"].axes] == [
        "Bias", "Variance", "SNR", "DSNR", "Variance x time",
    ]  # fmt: skip


def test_curves_are_means_and_bands_are_ranges():
    found = comparison()
    axes = figures(found)["curves"].axes[0]
    line = next(line for line in axes.lines if line.get_label() == "elbo")
    ends = [c.curve[-1]["elbo"] or 0.0 for c in found.of("elbo")]
    assert line.get_ydata()[-1] == pytest.approx(sum(ends) / 3)  # type: ignore[index]
    band = axes.collections[0].get_paths()[0].vertices
    at_the_end = [y for x, y in band if x == 100]  # type: ignore[misc]
    assert min(at_the_end) == pytest.approx(min(ends))
    assert max(at_the_end) == pytest.approx(max(ends))


def test_what_broke_down_at_once_has_no_curve():
    found = comparison()
    for status in ("refused", "diverged"):
        for c in found.of("dreg"):
            c.status = status
            c.curve = [{"step": 0, "seconds": 0.0, "elbo": -150.0, "log_likelihood": -149.0}]
        axes = figures(found)["curves"].axes[0]
        assert {line.get_label() for line in axes.lines} == {"elbo", "stl:k=5", "wake"}
    for c in found.of("wake"):
        c.status = "failed"
    assert {line.get_label() for line in figures(found)["curves"].axes[0].lines} == {"elbo", "stl:k=5"}


def test_a_bias_that_is_not_seen_is_drawn_hollow_two_standard_errors_up():
    axes = figures(comparison())["gradients"].axes[0]
    marks = {round(float(line.get_xdata()[0]), 6): line for line in axes.lines}  # type: ignore[index]
    hollow, full = marks[0.032], marks[0.53]
    assert hollow.get_markerfacecolor() == "white"
    assert full.get_markerfacecolor() != "white"


def test_an_interval_that_leaves_out_zero_is_filled():
    found = comparison()
    for c in found.of("stl:k=5"):
        c.final["log_likelihood"] = -90.0 - c.seed
    axes = figures(found)["differences"].axes[1]
    marks = [line for line in axes.lines if line.get_markersize() == 6]
    assert marks[0].get_markerfacecolor() != "white"
    assert float(marks[0].get_xdata()[0]) == pytest.approx(7.0)  # type: ignore[index]


def test_one_seed_fills_no_mark():
    found = comparison()
    found.cells = [c for c in found.cells if c.seed == 1]
    drawn = figures(found)
    for axes in drawn["differences"].axes:
        marks = [line for line in axes.lines if line.get_marker() == "o"]
        assert [mark.get_markersize() for mark in marks] == [6, 6]  # no grey dots on the same points
        assert {mark.get_markerfacecolor() for mark in marks} == {"white"}
    page = report(found, drawn).html()
    assert "one seed, which has no interval, so that no mark is filled." in page
    assert "filled where the interval leaves out 0" not in page
    assert "filled where the interval leaves out 0" in report(comparison(), drawn).html()


def test_an_interval_that_holds_zero_shows_it():
    found = comparison()
    for c in found.cells:  # differences to elbo of -1, 0, 1 and a bit: mean .0001, half width 2.48
        c.final["log_likelihood"] = -98.0 + (c.seed - 0.9999) * (c.estimator != "elbo")
    row = {row[0]: row for row in blocks(found)[0].rows}["stl:k=5"]
    assert row[3] == "0.00 [-2.48, +2.48]"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.3, 2.7, [1.5, 2.0]), (0.95, 3.2, [1.0, 1.5, 2.0, 3.0]), (0.95, 6.0, [1.0, 2.0, 3.0, 5.0]),
        (0.2, 5.5, [0.3, 1.0, 3.0]), (1.1, 1.4, [math.sqrt(1.1 * 1.4)]),
        (0.05, 150.0, [0.1, 1.0, 10.0, 100.0]), (1e-6, 1e3, [1e-6, 1e-3, 1.0, 1e3]),
    ],
)  # fmt: skip
def test_log_axes_have_some_ticks(low, high, ticks):
    found = log_ticks(low, high)
    assert 1 <= len(found) <= 4
    assert all(low <= tick <= high * (1 + 1e-12) for tick in found)
    assert found == pytest.approx(ticks)


def test_only_a_laboratory_and_only_cells():
    found = comparison()
    found.cells = []
    assert set(figures(found)) == {"gradients"}
    assert "After training" not in report(found, {}).html()
    found = comparison()
    found.laboratory = None
    assert set(figures(found)) == {"curves", "differences"}
    assert "Gradient laboratory" not in report(found, {}).html()
    assert len(blocks(found)) == 1


def test_numbers_that_are_none_are_not_drawn():
    found = comparison()
    assert found.laboratory is not None
    for probed in found.laboratory.probes:
        for finding in probed.groups.values():
            finding.dsnr = None
    drawn = figures(found)["gradients"].axes
    assert [text.get_text() for text in drawn[3].texts] == ["none"]


def test_zero_and_infinity_stand_at_the_edges():
    found = comparison()
    assert found.laboratory is not None
    for finding in found.laboratory.probes[0].groups.values():
        finding.snr, finding.variance, finding.bias = math.inf, Estimate(0.0), Estimate(0.0)
    figure = figures(found)["gradients"]
    said = [[(text.get_text(), text.xy) for text in axes.texts] for axes in figure.axes]  # type: ignore[attr-defined]
    zero, infinity = ("0", (0.0, 0)), ("∞", (1.0, 0))
    assert said == [[zero] * 2, [zero] * 2, [infinity] * 2, [infinity], [zero] * 2]
    found.laboratory.probes = found.laboratory.probes[:1]
    (legend,) = figures(found)["gradients"].legends  # though no mark is filled
    assert [text.get_text() for text in legend.get_texts()] == ["model", "guide"]


def test_everything_is_written(tmp_path):
    (tmp_path / "made" / "figures").mkdir(parents=True)
    (tmp_path / "made" / "figures" / "curves.png").touch()
    found = comparison()
    found.cells = []
    folder = found.write(tmp_path / "made")
    assert [path.name for path in (folder / "figures").iterdir()] == ["gradients.png"]  # the old one went
    folder = comparison().write(tmp_path / "made")
    assert {path.name for path in folder.iterdir()} == {"compare.json", "report.html", "figures"}
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "curves.png",
        "differences.png",
        "gradients.png",
    }
    again = Comparison.read(folder)
    assert again == comparison()
    assert not re.search(r"\bNaN\b", (folder / "compare.json").read_text())

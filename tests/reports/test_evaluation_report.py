"""The report of an evaluation: what was measured is in it, what was not is not, and every figure can be
drawn."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ppvae.cli import main
from ppvae.commands import _trust_rows
from ppvae.plots import bounds, gaps, importance, ranks, rates, worst
from ppvae.plots.style import write
from ppvae.reports import evaluation, measured
from ppvae.reports.run_report import REPORT
from ppvae.runs import strict_json

QUICK = ["--steps", "5", "--batch", "50", "--eval-k", "0", "--no-check"]
FEW = [
    "--all", "--k", "30", "--n", "20", "--calibration-n", "40", "--calibration-draws", "19", "--ais-n", "3",
    "--gaps-n", "3", "--gaps-steps", "10", "--rate-distortion-n", "3", "--chains", "3", "--temperatures",
    "10",
]  # fmt: skip
HEADINGS = (
    "Summary", "The bound over K", "How far the weights can be trusted", "Rate and information",
    "Calibration of the guide", "The two gaps", "Annealed chains, from both sides", "Rate-distortion curve",
    "Pictures", "What was run, and on what",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small VAE on pictures, trained for five steps and evaluated by the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        patch.setenv("COLUMNS", "200")
        x = np.random.default_rng(0).integers(0, 2, (90, 1, 8, 8), dtype=np.uint8)
        np.savez("own.npz", x=x)
        sizes = ["--sizes", "latent=2", "hidden=[8]"]
        assert main(["train", "vae", "--data", "own.npz", *sizes, *QUICK]) == 0
        assert main(["evaluate", "latest", *FEW]) == 0
        return Path("runs/latest").resolve()


@pytest.fixture(scope="module")
def results(run):
    return strict_json.loads((run / "evaluation.json").read_bytes())


def headings(html: str) -> list[str]:
    return re.findall(r"<h2 id=[^>]*>(.*?)</h2>", html)


def test_every_measure_has_a_section_and_a_figure(run):
    html = (run / REPORT).read_text(encoding="utf-8")
    assert tuple(headings(html)) == HEADINGS
    names = {"k_curve", "k_hat", "worst", "rates", "calibration", "gaps", "ais", "rate_distortion"}
    assert names <= {path.stem for path in (run / "figures").iterdir()}
    for name in names:
        assert min(Image.open(run / "figures" / f"{name}.png").size) > 200
    assert html.count("data:image/png") == len(names) + 3
    assert "<script" not in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)  # it asks nothing of a network


def test_the_numbers_are_those_of_the_json(run, results):
    html = (run / REPORT).read_text(encoding="utf-8")
    assert f"{results['elbo']:.1f}"[:5] in html
    for entry in results["worst"][:3]:
        assert entry["index"] < 90
    assert results["data_hash"] in html
    assert f"{results['calibration']['failing']} of {results['calibration']['ranked']} ranks" in html


def test_the_terminal_claims_no_more_than_was_seen(results):
    rows = {row[0]: row for row in _trust_rows(results)}
    wanted = "not seen to fail" if results["calibration"]["passed"] else "failed"
    assert rows["calibration"][1] == wanted
    passed = {**results, "calibration": {**results["calibration"], "passed": True}}
    assert {row[0]: row for row in _trust_rows(passed)}["calibration"][1] == "not seen to fail"
    html = evaluation.page(passed, {}, title="x", about={}).html()
    assert "not seen to fail" in html
    assert ">passed<" not in html
    ais = results["ais"]
    assert rows["upper - lower"][1] == measured(ais["bdmc_gap"], ais["bdmc_gap_stderr"])


def test_the_terminal_says_it_in_short(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["evaluate", "latest", "--k", "30", "--n", "20"]) == 0
    out = capsys.readouterr().out
    assert "k-hat above 0.7" in out
    assert "calibration" not in out
    assert out.count("written: ") == 2
    assert out.rstrip().endswith(REPORT)
    html = (run / REPORT).read_text(encoding="utf-8")
    assert tuple(headings(html)) == tuple(h for h in HEADINGS if HEADINGS.index(h) not in (4, 5, 6, 7))
    evaluated = json.loads((run / "evaluation.json").read_text())
    for name in ("elbo", "bits_per_dim", "rate"):  # as the page has them
        assert measured(evaluated[name], evaluated[f"{name}_stderr"]) in out
        assert measured(evaluated[name], evaluated[f"{name}_stderr"]) in html
    assert "calibration" not in evaluated


def test_vectors_have_a_table_of_the_worst(tmp_path, monkeypatch, capsys):
    """No pictures to show; few draws have no k-hat and say so."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "ppca", *QUICK]) == 0
    assert main(["evaluate", "latest", "--k", "10", "--n", "20"]) == 0
    html = Path("runs/latest", REPORT).read_text(encoding="utf-8")
    assert "place in test" in html
    assert "too few for a k-hat" in html
    assert not Path("runs/latest/figures/worst.png").exists()
    capsys.readouterr()


def test_training_on_takes_the_report_of_older_parameters_away(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "ppca", *QUICK]) == 0
    assert main(["evaluate", "latest", "--k", "10", "--n", "20"]) == 0
    assert Path("runs/latest", REPORT).is_file()
    assert main(["train", "ppca", "--resume", "latest", "--steps", "7"]) == 0
    assert not Path("runs/latest", REPORT).exists()
    capsys.readouterr()


def test_a_pair_without_a_bound_has_a_short_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--sizes", "latent=2", "hidden=[8]"]
    data = ["--data", "digits8x8", "--binarization", "threshold"]
    assert main(["train", "autoencoder", *data, *sizes, *QUICK]) == 0
    assert main(["evaluate", "latest", *FEW]) == 0
    html = Path("runs/latest", REPORT).read_text(encoding="utf-8")
    wanted = ["Summary", "Pictures", "What is undefined", "What was run, and on what"]
    assert headings(html) == wanted
    assert "no bound on log p(x)" in html
    capsys.readouterr()


# ---- figures


def test_figures_need_nothing_but_the_json(results):
    found = evaluation.figures(results)
    assert set(found) == {"k_curve", "k_hat", "rates", "calibration", "gaps", "ais", "rate_distortion"}
    assert all(isinstance(figure, Figure) for figure in found.values())


def test_one_datum_has_no_spread_and_the_page_says_so(results):
    one = {**results, "n": 1, "n_elbo": 1}
    html = evaluation.page(one, {}, title="one", about={}).html()
    assert "1 test datum of" in html
    assert "one datum has no ±" in html
    assert "1 data" not in html
    assert (
        "is one standard error of the mean over the data"
        in evaluation.page(results, {}, title="some", about={}).html()
    )


def test_no_line_runs_through_the_legend_of_k_hat(results):
    figure = importance.k_hat(results)
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert len(figure.legends[0].get_texts()) == 3
    figure.draw_without_rendering()
    panel = figure.axes[0].get_tightbbox()  # with its title
    assert panel is not None
    assert figure.legends[0].get_window_extent().y0 >= panel.y1


def test_parts_of_a_rate_add_up_to_it():
    """Also where the bounds on the information leave some open, or lie in the wrong order by their errors."""
    for least, most, each in ((1.0, 1.5, 0.5), (4.0, 30.0, 0.5), (2.0, 1.9, 0.7), (1.0, 2.5, None)):
        parts = {
            "rate": 6.0, "mutual_information": least, "mutual_information_upper": most, "dimension_kl": each,
        }  # fmt: skip
        found = rates.parts_of(5.9, parts)
        assert sum(width for _, width, _ in found) == pytest.approx(6.0)
        assert all(width >= -1e-9 for _, width, _ in found)
        assert found[0][1] == least
    assert [(name, width) for name, width, _ in rates.parts_of(5.9, None)] == [("rate", 5.9)]


def test_extreme_results_can_be_drawn(results, tmp_path):
    """No finite k-hat, no k-hat at all, equal bounds, one of everything, huge counts."""
    none = {**results, "k_hat": None}
    exact = json.loads(json.dumps(results))
    exact["k_hat"]["histogram"] = {"edges": [0.0, 0.1], "counts": [0]}
    for row in exact["k_curve"]:
        row |= {"bound": -5.0, "below_last": 0.0, "below_last_stderr": None, "bound_stderr": None}
    one = {**exact, "k_curve": exact["k_curve"][:1]}
    for i, case in enumerate((none, exact, one)):
        write(importance.k_curve(case), tmp_path / f"curve{i}.png")
        write(importance.k_hat(case), tmp_path / f"hat{i}.png")
    level = {**results["gaps"], "elbo": -5.0, "elbo_best": -5.0, "log_p": -5.0}
    write(gaps.gaps(level), tmp_path / "level.png")
    below = {**results["gaps"], "amortization_gap_stderr": None, "elbo_best": results["gaps"]["elbo"] - 1}
    write(gaps.gaps(below), tmp_path / "below.png")
    alone = {
        **results["ais"],
        "importance": None,
        "ais_above_importance": None,
        "bdmc_gap_each": [0.0, math.nan],
    }
    write(bounds.sandwich(alone), tmp_path / "alone.png")
    single = {**results["calibration"], "worst": results["calibration"]["worst"][:1]}
    write(ranks.ranks(single), tmp_path / "single.png")
    bare = {**results, "information": {"z": None}}
    write(rates.rates(bare), tmp_path / "bare.png")
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_the_worst_are_drawn_eight_to_a_row(count):
    x = torch.rand(count, 1, 8, 8)
    entries = [
        {"index": i, "k_hat": k, "effective_sample_size": 1.5, "log_likelihood": -3.0}
        for i, k in zip(range(count), [None, math.inf, -math.inf, *[0.5] * 20], strict=False)
    ]
    figure = worst.worst(x, x, entries)
    assert len(figure.axes) == 2 * count
    said = " ".join(text.get_text() for text in figure.texts)
    assert "k-hat –" in said
    assert count < 3 or ("dominated" in said and "exact" in said)


def test_the_worst_must_fit_their_numbers():
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="2 data, 2 reconstructions, 1 entries"):
        worst.worst(x, x, [{"index": 0}])
    assert not worst.are_pictures(torch.rand(3, 10))
    assert worst.are_pictures(torch.rand(3, 3, 4, 4))

"""What the commands do and print. The options are in `cli.py`, the work is in the library."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ppvae import estimators, launched, plots, registry, scaffold
from ppvae.config import TrainConfig
from ppvae.data import load as load_data
from ppvae.data import names as data_names
from ppvae.errors import PPVAEError, RunError, UsageError, nearest
from ppvae.evaluation import evaluate, evaluating
from ppvae.evaluation_config import EvaluationConfig
from ppvae.importing import import_place, split_place
from ppvae.linter import check
from ppvae.oracles import examine
from ppvae.pair import Pair
from ppvae.reports import measured
from ppvae.reports.cells import data as counted
from ppvae.reports.run_report import REPORT, write_report
from ppvae.runs import Run
from ppvae.trained import Trained, load
from ppvae.training import fit

console = Console(highlight=False)
WIDE = 140
"""Columns of a terminal on which a reference fits into a line."""


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Inside, a warning is one line on stderr, without the line of code that it came from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"ppvae: warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def list_pairs() -> None:
    """Print every pair with its latents, where there is room its reference, the estimators and the data
    sets."""
    wide = console.width >= WIDE
    table = Table("pair", "data", "latents", *["reference"] * wide, title="pairs")
    for name in registry.names():
        pair = registry.find(name)
        table.add_row(name, pair.data or "-", pair.latent, *[pair.reference] * wide)
    console.print(table)
    console.print(f"estimators: {', '.join(estimators.ESTIMATORS)}; or pyro:NAME, or your own, file.py:CLASS")
    console.print(f"data sets: {', '.join(data_names)}; or an .npz file, or a folder of pictures")


def check_named(
    name: str, data: str | None, binarization: str | None, sizes: dict[str, Any], seed: int
) -> int:
    """Check a pair, or an estimator where the name is no pair's."""
    if not names_estimator(name):
        return check_pair(name, data, binarization, sizes, seed)
    if data or binarization or sizes:
        raise UsageError(f"{name} is an estimator, which is checked on pairs of its own: give it alone")
    report = examine(name, seed=seed)
    report.render(console)
    return 0 if report.ok else 1


def names_estimator(text: str) -> bool:
    """Whether a text names an estimator; what could be a pair is one.

    Raises:
        UsageError: it names neither.
    """
    if text in registry.names():
        return False
    if text.partition(":")[0] in (*estimators.ESTIMATORS, "pyro"):
        return True
    place = ":".join(part for part in text.split(":") if "=" not in part)
    if ":" not in place and not place.endswith(".py"):
        pairs, ours = registry.names(), list(estimators.ESTIMATORS)
        raise UsageError(
            f"no pair and no estimator {place!r}{nearest(place, [*pairs, *ours]) or '.'} Pairs: "
            f"{', '.join(pairs)}; estimators: {', '.join(ours)}; your own are found as file.py:NAME"
        )
    source, attribute = split_place(place, "PAIR")
    try:
        module = import_place(source)
    except PPVAEError:
        raise
    except Exception:  # in the user's file, which the linter reports with its line
        return False
    found = getattr(module, attribute, None)
    if isinstance(found, Pair) or _is_estimator(found):
        return not isinstance(found, Pair)
    pairs = [name for name, value in vars(module).items() if isinstance(value, Pair)]
    own = [n for n, v in vars(module).items() if _is_estimator(v) and v.__module__ == module.__name__]
    raise UsageError(
        f"{source} has no pair and no estimator {attribute!r}{nearest(attribute, [*pairs, *own]) or '.'} "
        f"Its pairs: {', '.join(pairs) or 'none'}; its estimators: {', '.join(own) or 'none'}"
    )


def _is_estimator(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, estimators.Estimator)


def check_pair(
    name: str, data: str | None, binarization: str | None, sizes: dict[str, Any], seed: int
) -> int:
    """Print the findings and the table of sites; 1 where there is an error, else 0."""
    try:
        pair = registry.find(name)
    except PPVAEError:
        raise
    except Exception:  # in the user's file, which the linter reports with its line
        report = check(name)
    else:
        what = data or pair.data
        dataset = None if what is None else load_data(what, binarization=binarization)
        report = check(pair, dataset, seed=seed, sizes=sizes)
    report.render(console)
    return 0 if report.ok else 1


@one_line_warnings()
def train_pair(name: str, config: TrainConfig, resume: str | None) -> None:
    """Train, evaluate, draw pictures, and print where everything is."""
    started = time.monotonic()
    if config.threads is not None:
        torch.set_num_threads(config.threads)  # evaluation and pictures, too
    run = Run.open(resume, write=launched.rank() == 0, root=config.out) if resume else None
    trained = fit(name, config=config, save=True, resume=run)
    if trained.run is None:  # of several processes one evaluates, writes and shows
        return
    seconds = time.monotonic() - started
    results = _evaluated(trained, config) if config.eval_k and trained.dataset is not None else None
    draw_figures(trained)
    _summary(trained, results, seconds)


def _evaluated(trained: Trained, config: TrainConfig) -> dict[str, Any] | None:
    assert trained.dataset is not None
    assert trained.run is not None
    split = "test" if trained.dataset.test is not None and len(trained.dataset.test) else "train"
    results = evaluate(trained.built, trained.dataset, k=config.eval_k, n=config.eval_n, split=split)
    return _shown_and_written(trained, results)


def _shown_and_written(trained: Trained, results: dict[str, Any]) -> dict[str, Any]:
    """The table first: a disk that is full does not take what took minutes."""
    assert trained.run is not None
    results = {**results, "step": trained.step}
    console.print(results_table(trained, results))
    console.print(f"parameters of step {trained.step}")
    trained.run.write_json("evaluation.json", results)
    return results


@one_line_warnings()
def evaluate_run(path: Path, config: EvaluationConfig, *, pair: str | None, device: str) -> None:
    """Score a run and write its evaluation.json, figures and report.html."""
    trained = load(path, pair=pair, device=device)
    if trained.dataset is None:
        raise UsageError(f"pair {trained.pair.name!r} has no data: there is nothing to evaluate it on")
    with console.status("") as status:
        results = evaluate(trained.built, trained.dataset, config, on_stage=status.update)
    assert trained.run is not None
    results = _shown_and_written(trained, results)
    with _writing_to(trained.run.figures):
        report = write_report(trained, results)
    for path in (trained.run.path / "evaluation.json", report):
        console.print(f"written: {path}", soft_wrap=True)


@one_line_warnings()
def sample_run(path: Path, *, n: int, seed: int, pair: str | None, device: str) -> None:
    """Draw grids of samples and reconstructions into the run's figures folder."""
    if n < 1:
        raise UsageError(f"n={n}: draw at least 1 sample")
    trained = load(path, pair=pair, device=device)
    for written in draw_figures(trained, n=n, seed=seed):
        console.print(f"written: {written}", soft_wrap=True)


def new_pair(name: str, folder: Path) -> None:
    """Write the files of a pair to start from and say what to do with them."""
    written = scaffold.new(name, folder)
    for path in written:
        console.print(f"written: {path}", soft_wrap=True)
    pair, test = written
    console.print(f"train it: ppvae train {pair}:PAIR; test it: pytest {test}", soft_wrap=True)


@torch.no_grad()
def draw_figures(trained: Trained, n: int = 64, seed: int = 0) -> list[Path]:
    """Samples, reconstructions and curves as PNG; pictures as grids, vectors as scatter plots."""
    assert trained.run is not None
    folder = trained.run.path / "figures"
    written = []
    with _writing_to(folder):
        folder.mkdir(exist_ok=True)
        with evaluating(trained.built, seed):
            written += _sample_figures(trained, folder, n)
        if trained.history:
            bound = trained.pair.bound != "none"
            written.append(plots.curves(trained.history, folder / "curves.png", bound=bound))
    return written


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where, why = error.filename or folder, error.strerror or error
        raise RunError(
            f"{where} cannot be written ({why}): free space, or allow it, then ppvae sample {folder.parent}"
        ) from error


def _sample_figures(trained: Trained, folder: Path, n: int) -> list[Path]:
    dataset, pair = trained.dataset, trained.pair
    if dataset is None or not pair.observed:
        return []
    field = pair.observed[0]
    split = "test" if dataset.test is not None and len(dataset.test) else "train"
    data = dataset.fixed(split)
    batch = data.batch(torch.randperm(len(data))[: min(n, len(data))])
    conditions = {name: batch[name] for name in pair.conditions}
    x = batch[field]
    rows = len(x) if conditions else n
    pictures = x.dim() == 4 and x.shape[1] in (1, 3)
    title = "p(x | z) for z ~ p(z)" if pictures else None
    if pair.bound == "none":
        title = "decoded draws of N(0, I): this model has no prior"

    def samples() -> Path:
        drawn = trained.generate(rows, mean=pictures, **conditions).cpu()
        path = folder / "samples.png"
        if pictures:
            return plots.image_grid(drawn, path, title=title)
        return plots.pairs_scatter(_vectors(x), _vectors(drawn), path, title=title)

    def reconstructions() -> Path:
        drawn = trained.reconstruct(**batch).cpu()  # type: ignore[arg-type]
        path = folder / "reconstructions.png"
        if pictures:
            return plots.reconstruction_grid(x[:32], drawn[:32], path)
        return plots.pairs_scatter(_vectors(x), _vectors(drawn), path, label="reconstructed")

    written = []
    for draw in (samples, reconstructions):
        try:
            written.append(draw())
        except OSError:
            raise
        except Exception as error:  # a model may not be able to; what is trained and measured stays
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            console.print(f"no {draw.__name__}: {reason}", style="yellow", soft_wrap=True)
    return written


def _vectors(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(len(values), -1)


def results_table(trained: Trained, results: dict[str, Any]) -> Table:
    """What evaluation.json says, with units."""
    table = Table(
        "quantity", "value", "unit", title=f"{trained.pair.name} on {results['data']} ({results['split']})"
    )
    k, n = results["k"], results["n"]
    others = ", a sample of the elbo's" if n != results["n_elbo"] else ""
    rows = [
        ("elbo", "elbo", f"nats per datum, {counted(results['n_elbo'])}"),
        ("log p(x)", "log_likelihood", f"nats per datum, K = {k}, {counted(n)}{others}"),
        ("bits per dimension", "bits_per_dim", f"bits, K = {k}, {counted(n)}"),
        ("rate", "rate", "nats per datum"),
        ("distortion", "distortion", "nats per datum"),
        ("active units", "active_units", "latent dimensions"),
    ]
    for label, key, unit in rows:
        value, error = results[key], results.get(f"{key}_stderr")
        if value is None:
            table.add_row(label, "-", results["reasons"].get(key, ""))
        elif isinstance(value, int):
            table.add_row(label, str(value), unit)
        else:
            table.add_row(label, measured(value, error), unit)
    for row in _trust_rows(results):
        table.add_row(*row)
    return table


def _trust_rows(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """How far the guide can be trusted, a row for each measure that was taken."""
    if found := results["k_hat"]:
        share = found["share_above"]
        size = results["effective_sample_size"]["quantiles"].get("0.5")
        shown = "-" if share is None else f"{100 * share:.1f} %"
        worth = "" if size is None else f"; half are worth {size:.3g} draws or fewer"
        yield f"k-hat above {found['above']}", shown, f"of {counted(results['n'])}{worth}"
    if found := results.get("calibration"):
        verdict = "not seen to fail" if found["passed"] else "failed"
        yield "calibration", verdict, f"{found['failing']} of {found['ranked']} ranks not uniform"
    if found := results.get("ais"):
        yield _row("log p(x), annealed", found, "ais_lower", f"nats per datum, {counted(found['n'])}")
        if found["bdmc_gap"] is not None:
            yield _row("upper - lower", found, "bdmc_gap", "nats per datum, annealed from both sides")
    if found := results.get("gaps"):
        for name in ("approximation", "amortization"):
            yield _row(f"{name} gap", found, f"{name}_gap", f"nats per datum, {counted(found['n'])}")


def _row(label: str, found: dict[str, Any], name: str, unit: str) -> tuple[str, str, str]:
    return label, measured(found[name], found[f"{name}_stderr"]), unit


def _summary(trained: Trained, results: dict[str, Any] | None, seconds: float) -> None:
    assert trained.run is not None
    took = f"{trained.step} steps in {seconds:.0f} s"
    if results is not None:
        took += f", evaluated in {results['seconds']:.0f} s (± is the standard error of the mean)"
    console.print(took)
    if trained.account is not None:
        console.print(trained.account, soft_wrap=True)
    evaluation = trained.run.path / "evaluation.json"
    if results is None:  # one from before the run was resumed would be about other parameters
        evaluation.unlink(missing_ok=True)
    (trained.run.path / REPORT).unlink(missing_ok=True)  # of an evaluation before this one
    for path in [*sorted(trained.run.figures.glob("*.png")), evaluation]:
        if path.exists():
            console.print(f"written: {path}", soft_wrap=True)

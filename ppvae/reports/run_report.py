"""The report of a run: the figures of its evaluation into `figures/`, and all of it into `report.html`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ppvae.evaluation import evaluating
from ppvae.plots import style, worst
from ppvae.reports import evaluation
from ppvae.runs import strict_json
from ppvae.trained import Trained

REPORT = "report.html"
_PICTURES = {
    "curves": "The objective and its parts over training.",
    "samples": "What the model draws.",
    "reconstructions": "Data and their reconstructions from one draw of the guide.",
}


def write_report(trained: Trained, results: Mapping[str, Any]) -> Path:
    """Draw the figures, write the page, and return its path.

    Raises:
        RunError, OSError: a file cannot be written.
    """
    assert trained.run is not None
    folder = trained.run.figures
    drawn = evaluation.figures(results)
    shown = worst_data(trained, results)
    if shown is not None:
        drawn["worst"] = shown
    for name, figure in drawn.items():
        style.write(figure, folder / f"{name}.png")
    pictures = {
        caption: path for name, caption in _PICTURES.items() if (path := folder / f"{name}.png").is_file()
    }
    title = f"{trained.pair.name or 'pair'} on {results['data']}"
    about = _about(trained, results)
    page = evaluation.page(results, drawn, title=title, about=about, pictures=pictures)
    return page.write(trained.run.path / REPORT)


def worst_data(trained: Trained, results: Mapping[str, Any]) -> Figure | None:
    """The worst data with their reconstructions; None where they are no pictures, or there are none."""
    entries, pair = results.get("worst"), trained.pair
    if not entries or not pair.observed or trained.dataset is None:
        return None
    data = trained.dataset.fixed(results["split"])
    batch = data.batch(torch.tensor([entry["index"] for entry in entries], device=data.device))
    x = batch[pair.observed[0]]
    if not worst.are_pictures(x):
        return None
    with evaluating(trained.built, results["seed"]):
        try:
            copies = trained.reconstruct(**batch)  # type: ignore[arg-type]
        except Exception:  # a model may not be able to
            return None
    return worst.worst(x, copies, entries)


def _about(trained: Trained, results: Mapping[str, Any]) -> dict[str, Any]:
    """What was run and on what, as words by name."""
    assert trained.run is not None
    config = trained.config.to_dict()
    about = {
        "run": trained.run.name,
        "pair": f"{trained.pair.name}: {trained.pair.latent}" if trained.pair.latent else trained.pair.name,
        "reference": trained.pair.reference or None,
        "estimator": config["estimator"],
        "steps": trained.step,
        "optimizer": f"{config['optimizer']}, learning rate {config['lr']:g}, batch {config['batch']}",
        "seed of training": config["seed"],
        "data": results["data"],
        "hash of the data": results["data_hash"],
        "binarization": results["binarization"],
        "split": f"{results['split']}, {results['n_elbo']} data",
        "seed of the evaluation": results["seed"],
        "seconds of the evaluation": f"{results['seconds']:.0f}",
    }
    return about | _environment(trained.run.path / "env.json")


def _environment(file: Path) -> dict[str, Any]:
    """What env.json says of the machine and the libraries that trained; nothing where it cannot be read."""
    try:
        found = strict_json.loads(file.read_bytes())
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        return {"trained with": versions, "on": f"{found['device']}, {found['platform']}"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}

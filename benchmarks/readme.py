"""Make the README's table of pairs from benchmarks/results/pairs.json, and its picture from a trained run.

python benchmarks/readme.py                     # the table
python benchmarks/readme.py --run runs/latest   # the picture, too
"""

import argparse
import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- pairs -->", "<!-- /pairs -->"


def table(results: dict) -> str:
    """One row a pair: name, year, latents, reference, example, measured test nats."""
    from ppvae.registry import find, names

    rows = [
        "| pair | year | latents | reference | example | test elbo | test log p(x) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names():
        pair, entry = find(name), results["pairs"].get(name)
        year = re.search(r"\((\d{4})\)", pair.reference)
        cells = [
            f"[`{name}`](guides/{name}.py)",
            year.group(1) if year else "",
            pair.latent,
            pair.reference,
            f"`ppvae train {name}`, on {pair.data}",
            *(_number(entry, key) for key in ("elbo", "log_likelihood")),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _number(entry: dict | None, key: str) -> str:
    if entry is None:
        return "not measured"
    if entry[key] is None:
        return "none: no bound"
    return f"{entry[key]:.2f} ± {entry[f'{key}_stderr']:.2f}"


def write_table(readme: Path, results: dict) -> None:
    text = readme.read_text()
    pattern = re.compile(f"{START}.*?{END}", re.S)
    assert pattern.search(text), f"{readme} has no {START} ... {END}"
    readme.write_text(pattern.sub(lambda _: f"{START}\n{table(results)}\n{END}", text))


def draw_hero(run: str, path: Path) -> None:
    """Samples, reconstructions and the curve of one trained run, as the README shows them."""
    import torch

    from ppvae import load, plots

    trained = load(run)
    assert trained.dataset is not None
    assert trained.dataset.test is not None
    torch.manual_seed(0)
    order = torch.randperm(len(trained.dataset.test))[:32]
    x = trained.dataset.test.batch(order)["x"]
    path.parent.mkdir(parents=True, exist_ok=True)
    plots.hero(trained.history, trained.generate(64), x, trained.reconstruct(x), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", help="a run folder of ppvae train vae, for the picture")
    options = parser.parse_args()
    write_table(ROOT / "README.md", json.loads((ROOT / "benchmarks/results/pairs.json").read_text()))
    if options.run:
        draw_hero(options.run, ROOT / "docs/images/hero.png")


if __name__ == "__main__":
    main()

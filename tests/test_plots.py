"""Pictures: each function writes one PNG that shows its data, and leaves nothing of matplotlib behind."""

import ast
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from ppvae import plots
from ppvae.errors import UsageError
from ppvae.plots import latents

METRICS = [
    {"step": 50 * i, "elbo": -100 - 400 / (i + 1), "rate": 20 * i / (i + 3), "distortion": 90 + 400 / (i + 1)}
    for i in range(40)
] + [{"step": 400 * i, "valid_elbo": -105 - 100 / i} for i in range(1, 6)]


def digits(seed: int, n: int = 64, channels: int = 1) -> torch.Tensor:
    return torch.rand(n, channels, 28, 28, generator=torch.Generator().manual_seed(seed))


def codes(seed: int, d: int, n: int = 200) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(200) % 10
# name -> a picture of the data that a seed makes
PICTURES = {
    "image_grid": lambda seed, path: plots.image_grid(digits(seed), path, title="Generated"),
    "image_grid_colour": lambda seed, path: plots.image_grid(digits(seed, 10, 3), path, rows=2),
    "reconstruction_grid": lambda seed, path: plots.reconstruction_grid(digits(seed), digits(9), path),
    "curves": lambda seed, path: plots.curves([{**m, "rate": seed} for m in METRICS], path, title="vae"),
    "latent_scatter": lambda seed, path: plots.latent_scatter(codes(seed, 2), LABELS, path),
    "latent_scatter_plain": lambda seed, path: plots.latent_scatter(codes(seed, 2), None, path),
    "latent_scatter_scale": lambda seed, path: plots.latent_scatter(codes(seed, 2), codes(seed, 1), path),
    "latent_scatter_20": lambda seed, path: plots.latent_scatter(codes(seed, 20), LABELS, path),
    "latent_scatter_1": lambda seed, path: plots.latent_scatter(codes(seed, 1), LABELS, path),
    "pairs_scatter": lambda seed, path: plots.pairs_scatter(codes(0, 3), codes(seed, 3), path, title="moons"),
    "pairs_scatter_1": lambda seed, path: plots.pairs_scatter(codes(0, 1), codes(seed, 1), path),
    "histograms": lambda seed, path: plots.histograms({"k-hat": codes(seed, 1)}, path, xlabel="k-hat"),
    "hero": lambda seed, path: plots.hero(METRICS, digits(seed), digits(3), digits(4), path, title="vae"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_png_of_its_data(tmp_path, name):
    draw = PICTURES[name]
    first = draw(1, tmp_path / "figures" / "first.png")
    assert first == tmp_path / "figures" / "first.png"
    with Image.open(first) as picture:
        assert picture.format == "PNG"
        assert 500 <= picture.width <= 1800
        assert 150 <= picture.height <= 1800
        pixels = np.asarray(picture.convert("L"), dtype=float)
    assert pixels.std() > 5  # not blank
    assert pixels[:, -3:].mean() > 250  # nothing runs off the edge
    assert first.stat().st_size < 1_000_000
    assert draw(2, tmp_path / "other.png").read_bytes() != first.read_bytes()


def test_nothing_is_left_of_matplotlib(tmp_path):
    import matplotlib.pyplot as plt

    settings, backend, state = dict(mpl.rcParams), mpl.get_backend(), torch.get_rng_state()
    for name, draw in PICTURES.items():
        draw(1, tmp_path / f"{name}.png")
    again = PICTURES["curves"](1, tmp_path / "again.png")
    assert again.read_bytes() == (tmp_path / "curves.png").read_bytes()
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings
    assert mpl.get_backend() == backend
    assert torch.equal(torch.get_rng_state(), state)


def test_plots_import_neither_pyplot_nor_training():
    modules = set()
    for file in Path(plots.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module or "")
    ours = {m for m in modules if m.startswith(("ppvae", "torch", "pyro"))}
    assert {m for m in ours if not m.startswith("ppvae.plots.")} == {"ppvae.errors"}
    assert "matplotlib.pyplot" not in modules


def blobs(n: int) -> torch.Tensor:
    """Smooth pictures, which compress as digits do."""
    side = torch.linspace(-1, 1, 28)
    at = torch.rand(n, 2, 1, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    return torch.exp(-8 * ((side[:, None] - at[:, 0]) ** 2 + (side - at[:, 1]) ** 2))[:, None]


def test_the_hero_is_small_enough_for_a_readme(tmp_path):
    path = plots.hero(METRICS, blobs(100), blobs(40), blobs(40), tmp_path / "hero.png")
    assert path.stat().st_size < 300_000


def test_pixels_of_a_grid_are_those_of_the_images(tmp_path):
    """A grid of black and white images has their pixels, enlarged by a whole number and never blurred."""
    images = torch.zeros(4, 1, 8, 8)
    images[1:3] = 1.0
    with Image.open(plots.image_grid(images, tmp_path / "grid.png")) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert set(np.unique(pixels)) == {0, 255}
    black = (pixels == 0).sum()
    assert black % (2 * 64) == 0
    assert math.isqrt(black // (2 * 64)) ** 2 == black // (2 * 64)


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        [{"step": 1}],
        [{"step": 1, "elbo": -3.0}],
        [{"step": i, "valid_elbo": math.nan} for i in range(5)],
        [{"step": i, "elbo": [math.nan, -math.inf, -2.0, None][i % 4], "rate": 1.0} for i in range(50)],
        [{"elbo": -1.0}, {"step": 10**7, "elbo": -1.0}, {"step": 2 * 10**7, "elbo": -1.0}],
    ],
)
def test_curves_take_few_missing_and_damaged_values(tmp_path, recwarn, metrics):
    assert plots.curves(metrics, tmp_path / "curves.png").exists()
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.parametrize(("n", "rows"), [(1, None), (2, None), (7, 2), (3, 3), (100, None)])
def test_any_number_of_images(tmp_path, n, rows):
    assert plots.image_grid(digits(0, n), tmp_path / "grid.png", rows=rows).exists()
    assert plots.reconstruction_grid(digits(0, n), digits(1, n), tmp_path / "pairs.png").exists()
    assert plots.hero([], digits(0, n), digits(1, n), digits(2, n), tmp_path / "hero.png").exists()


def test_any_kind_of_array(tmp_path):
    plain = plots.image_grid(digits(0), tmp_path / "a.png").read_bytes()
    assert plots.image_grid(digits(0).numpy(), tmp_path / "b.png").read_bytes() == plain
    assert plots.image_grid(digits(0).double().requires_grad_(), tmp_path / "c.png").read_bytes() == plain
    levels = (digits(0) * 255).byte()
    whole = plots.image_grid(levels / 255, tmp_path / "d.png").read_bytes()
    assert plots.image_grid(levels, tmp_path / "e.png").read_bytes() == whole
    wild = digits(0) * 4 - 1
    wild[0, 0, 0, 0] = math.nan
    assert plots.image_grid(wild.bfloat16(), tmp_path / "f.png").exists()


def test_labels_may_be_names_and_codes_not_finite(tmp_path):
    z = codes(0, 2, 6)
    z[0, 0] = math.inf
    names = np.array(["cat", "dog", "cat", "dog", "cow", "cow"])
    assert plots.latent_scatter(z, names, tmp_path / "names.png").exists()
    assert plots.latent_scatter(torch.zeros(5, 2), torch.zeros(5), tmp_path / "same.png").exists()
    assert plots.latent_scatter(codes(0, 3), np.arange(200), tmp_path / "many.png").exists()


def test_what_was_generated_outside_the_axes_is_said(tmp_path, monkeypatch):
    titles = []
    plain = Axes.set

    def set_and_note(self, **values):
        titles.append(values.get("title"))
        return plain(self, **values)

    monkeypatch.setattr(Axes, "set", set_and_note)
    drawn = codes(1, 2)
    drawn[:20] = 99.0
    drawn[20] = math.nan
    plots.pairs_scatter(codes(0, 2).clamp(-1, 1) * 9, drawn.clamp(max=99), tmp_path / "pairs.png")
    assert "Generated (10 % outside)" in titles


def test_names_of_kinds_are_moved_apart():
    points = np.array([[0.0, 0.0], [10.0, 10.0]])
    spots = latents._apart(np.array([[5.0, 5.0], [5.0, 5.0], [5.1, 5.0], [1.0, 1.0]]), points)
    gaps = np.linalg.norm(spots[:, None] - spots, axis=-1)[~np.eye(4, dtype=bool)]
    assert gaps.min() > 0.5
    assert spots[3] == pytest.approx([1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize(
    ("draw", "word"),
    [
        (lambda p: plots.image_grid(torch.zeros(3, 784), p), r"\(3, 784\).*pairs_scatter"),
        (lambda p: plots.image_grid(torch.zeros(3, 2, 4, 4), p), r"C = 1 or 3"),
        (lambda p: plots.image_grid(torch.zeros(0, 1, 4, 4), p), r"\(0, 1, 4, 4\)"),
        (lambda p: plots.image_grid(digits(0, 3), p, rows=4), "rows=4"),
        (lambda p: plots.reconstruction_grid(digits(0, 3), digits(0, 4), p), "differ in shape"),
        (lambda p: plots.latent_scatter(codes(0, 2), LABELS[:3], p), "200 codes and 3 labels"),
        (lambda p: plots.latent_scatter(torch.zeros(3, 2) / 0, None, p), "NaN"),
        (lambda p: plots.latent_scatter(torch.zeros(3, 2, 2), None, p), r"use \(N, D\)"),
        (lambda p: plots.pairs_scatter(codes(0, 2), codes(0, 3), p), "2 dimensions"),
        (lambda p: plots.pairs_scatter(torch.zeros(3, 2) / 0, codes(0, 2), p), "NaN"),
        (lambda p: plots.histograms({}, p), "nothing to draw"),
        (lambda p: plots.histograms({"a": [math.nan]}, p), "nothing to draw"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path, draw, word):
    with pytest.raises(UsageError, match=word):
        draw(tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_what_is_reconstructed_or_no_bound_is_not_called_generated_or_elbo(tmp_path, monkeypatch):
    said = []
    plain = Axes.set

    def set_and_note(self, **values):
        said.extend(str(values.get(name)) for name in ("title", "ylabel"))
        return plain(self, **values)

    monkeypatch.setattr(Axes, "set", set_and_note)
    plots.pairs_scatter(codes(0, 2), torch.full((5, 2), 99.0), tmp_path / "a.png", label="reconstructed")
    plots.curves(METRICS, tmp_path / "b.png", bound=False)
    assert "Reconstructed (100 % outside)" in said
    assert "Objective, no bound" in said
    assert not [text for text in said if "elbo" in text or "Evidence" in text or "Generated" in text]

"""Pictures of what a pair has learned: each function takes tensors or arrays and writes one PNG.

Nothing here trains, draws random numbers or touches pyplot's global state.
"""

from ppvae.plots.images import image_grid, reconstruction_grid
from ppvae.plots.latents import latent_scatter
from ppvae.plots.overview import hero
from ppvae.plots.training_curves import curves
from ppvae.plots.vectors import histograms, pairs_scatter

__all__ = [
    "curves", "hero", "histograms", "image_grid", "latent_scatter", "pairs_scatter", "reconstruction_grid",
]  # fmt: skip

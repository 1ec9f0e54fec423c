"""Data in, one way: `load(what)` -> `Dataset` of `Split`s -> `Split.batch(index)`.

Importing this loads neither torchvision nor pandas nor PIL.
"""

from ppvae.data.dataset import Dataset, Split
from ppvae.data.load import load, names

__all__ = ["Dataset", "Split", "load", "names"]

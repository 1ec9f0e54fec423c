"""`ppvae new NAME`: a model, a guide and a test to start from, which pass at once.

The pair is one file and not a package: it is read from top to bottom, needs no import of a sibling, and is
therefore found alike as `NAME.py:PAIR`, from any folder by its path, and as `NAME:PAIR`.
"""

from __future__ import annotations

import keyword
import sys
from pathlib import Path

from ppvae.errors import UsageError

_PAIR = '''"""A variational autoencoder: one Gaussian latent z, an MLP each way.

    z_b ~ N(0, I)                               z: (B, latent)
    x_b ~ Bernoulli(logits = decoder(z_b))      x: (B, 1, 28, 28), bits

    p(x, z) = prod_b p(z_b) p(x_b | z_b)        q(z | x) = prod_b N(z_b; loc(x_b), diag(scale(x_b)^2))

Train it with `ppvae train NAME.py:PAIR`, check it with `ppvae check NAME.py:PAIR`.
"""

import math

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae import Pair


class CLASSModel(PyroModule):
    """p(x, z). `x_shape` is filled with the shape of one datum x; `latent=20 hidden=200` are options."""

    def __init__(self, x_shape=(1, 28, 28), latent=10, hidden=100):
        super().__init__()
        self.x_shape, self.latent, self.hidden = tuple(x_shape), latent, hidden
        # Linear, Tanh and the like take any leading dims, so that several particles run at once.
        size = math.prod(x_shape)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, size))

    def forward(self, x=None, *, n=None):
        # What is per datum lies in the plate called "data"; without x, n data are drawn.
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            zeros = self.decoder[0].weight.new_zeros(self.latent)
            # .to_event(1): the last dim belongs to one datum.
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            logits = self.decoder(z).unflatten(-1, self.x_shape)
            likelihood = dist.Bernoulli(logits=logits).to_event(len(self.x_shape))
            return pyro.sample("x", likelihood, obs=x)


class CLASSGuide(PyroModule):
    """q(z | x): the encoder gives loc and scale. A guide is made with the model, to read its sizes off it."""

    def __init__(self, model: CLASSModel):
        super().__init__()
        self.event_dim = len(model.x_shape)
        size, hidden = math.prod(model.x_shape), model.hidden
        self.encoder = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, 2 * model.latent))

    def forward(self, x, *, n=None):
        loc, raw_scale = self.encoder(x.flatten(-self.event_dim)).chunk(2, dim=-1)
        with pyro.plate("data", len(x), dim=-1):
            # The same name and the same event_shape as in the model; a scale is positive.
            pyro.sample("z", dist.Normal(loc, softplus(raw_scale) + 1e-4).to_event(1))


# A recipe: classes, not instances, so that two fits never share weights.
PAIR = Pair(model=CLASSModel, guide=CLASSGuide, data="digits", latent="z: 10 reals")
'''

_TEST = '''"""NAME: the guide fits the model, and twenty gradient steps raise the ELBO."""

from pathlib import Path

import pytest
import torch

import ppvae
from ppvae.build import build
from ppvae.data import load
from ppvae.estimators.elbo import ELBO

PAIR = ppvae.find(f"{Path(__file__).with_name('NAME.py')}:PAIR")


@pytest.fixture(scope="module")
def data():
    return load(PAIR.data)


def test_the_guide_fits_the_model(data):
    ppvae.check(PAIR, data).raise_if_broken()


def test_twenty_steps_raise_the_elbo(data):
    built = build(PAIR, data, seed=0)
    loss = ELBO()(built)  # in nats per datum
    optimizer = torch.optim.Adam(built.parameters(), lr=3e-3)
    batch = data.train.batch(torch.arange(128))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = loss(batch).item()
        for _ in range(20):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
        after = loss(batch).item()
    assert after < before - 10.0


def test_it_draws_data(data):
    built = build(PAIR, data, seed=0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        assert built.model(n=3).shape == (3, *data.shapes["x"])
'''


def new(name: str, folder: Path | str = Path(".")) -> list[Path]:
    """Write `NAME.py`, a model and a guide that end in PAIR, and `test_NAME.py`; returns the two paths.

    Raises:
        UsageError: `name` is no Python identifier or hides another module, a file exists already, or the
            folder cannot be written. Then nothing is written.
    """
    _refuse(name)
    folder = Path(folder)
    title = "".join(part[:1].upper() + part[1:] for part in name.split("_")) or name
    texts = {folder / f"{name}.py": _PAIR, folder / f"test_{name}.py": _TEST}
    for path in texts:
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists already: choose another name, or move it away")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text.replace("CLASS", title).replace("NAME", name))
    except OSError as error:
        for path in written:  # no half of a pair stays behind
            path.unlink(missing_ok=True)
        raise UsageError(
            f"cannot write into {folder} ({error.strerror}): choose a folder that you may write"
        ) from None
    return written


def _refuse(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or not name.isascii():
        raise UsageError(f"{name!r} is no Python name: use letters, digits and _, such as my_vae")
    if name.startswith(("test_", "_")):
        raise UsageError(
            f"{name!r} begins with {'_' if name[0] == '_' else 'test_'}: use a name such as my_vae"
        )
    if name in sys.stdlib_module_names or name in ("ppvae", "pyro", "torch", "numpy", "pytest"):
        raise UsageError(f"{name}.py would hide the module {name}: use another name, such as my_{name}")

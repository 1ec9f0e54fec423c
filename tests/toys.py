"""Models so small that every bound is known, and the means to hold an estimate against the truth."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae import registry
from ppvae.build import build
from ppvae.built import Built
from ppvae.data.dataset import Dataset, Split
from ppvae.data.load import load
from ppvae.pair import Pair

LOG_P = -1.515512  # of both Gaussian toys: z ~ N(0, 1), x | z ~ N(z, 1), x = 1
GUIDE_A, GUIDE_B = (0.0, 1.0), (0.25, 0.8)
IWAE_A = {1: -1.918939, 2: -1.653474, 5: -1.557411, 50: -1.519199}
IWAE_B = {1: -1.594582, 2: -1.548158, 5: -1.527258, 50: -1.516622}


def gaussian_model(x=None, *, n=None):
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        return pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class GaussianGuide(nn.Module):
    """q(z) = N(loc, scale^2), the same for every datum."""

    def __init__(self, model=None, loc: float = 0.0, scale: float = 1.0):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(loc))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))


def gaussian_toy(loc: float, scale: float) -> Built:
    pair = Pair(model=gaussian_model, guide=GaussianGuide, data=None)
    return build(pair, loc=loc, scale=scale)


def ones(rows: int) -> dict[str, Tensor]:
    return {"x": torch.ones(rows)}


def bernoulli_model(x=None, *, n=None):
    """p(z = 1) = .3, p(x = 1 | z) = .2, .9."""
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        return pyro.sample("x", dist.Bernoulli(0.2 + 0.7 * z), obs=x)


class BernoulliGuide(nn.Module):
    def __init__(self, model=None, prob: float = 0.6):
        super().__init__()
        self.logit = nn.Parameter(torch.logit(torch.tensor(prob)))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.logit))


def nothing(x, *, n=None):
    """A guide that proposes nothing."""


def bernoulli_toy(guide: Any = BernoulliGuide, how: str = "score") -> Built:
    return build(Pair(model=bernoulli_model, guide=guide, data=None, discrete={"z": how}))  # type: ignore[dict-item]


class MLP(PyroModule):
    """A small MLP VAE's model; its parameters share no name with those of `Encoder`."""

    def __init__(self, size: int = 6, latent: int = 2):
        super().__init__()
        self.size, self.latent = size, latent
        self.decoder = nn.Sequential(nn.Linear(latent, 5), nn.Tanh(), nn.Linear(5, size))

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Encoder(PyroModule):
    def __init__(self, model: MLP):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(model.size, 5), nn.Tanh(), nn.Linear(5, 2 * model.latent))

    def forward(self, x, *, n=None):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


MLP_VAE = Pair(model=MLP, guide=Encoder, data=None)


def bits(rows: int = 7, size: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.rand(rows, size, generator=generator).round().to(torch.get_default_dtype())}


def dataset(batch: dict[str, Tensor]) -> Dataset:
    """The batch as a data set, of which `build` reads sizes."""
    return Dataset(name="toy", train=Split(dict(batch)))


def gradients(built: nn.Module) -> dict[str, Tensor]:
    """Gradients by parameter name, taken off the modules; zeros where there is none."""
    found = {}
    for name, p in built.named_parameters():
        found[name] = torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        p.grad = None
    return found


def loss_and_gradients(estimator, built: Built, batch, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(seed)
    built.zero_grad(set_to_none=True)
    loss = estimator(built)(batch)
    loss.backward()
    return loss.detach(), gradients(built)


def pyro_loss_and_gradients(loss, built: Built, batch, seed: int = 0):
    """Value and gradients of one of Pyro's own losses on the same modules, divided by nothing."""
    torch.manual_seed(seed)
    built.zero_grad(set_to_none=True)
    with built.local():
        value = loss.loss_and_grads(built.run_model, _touched(built.run_guide), **batch)
    return value, gradients(built)


def _touched(fn):
    """Pyro differentiates only where a trace shows a parameter; a plain nn.Module shows none."""
    seen = nn.Parameter(torch.zeros(()))

    def wrapped(**inputs):
        effectful(type="param")(lambda *_, **__: seen)("seen", seen, constraint=constraints.real, name="seen")
        return fn(**inputs)

    return wrapped


def assert_same(
    found: dict[str, Tensor], wanted: dict[str, Tensor], scale: float = 1.0, tolerance: float = 1e-9
):
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(
            found[name],
            wanted[name] / scale,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def z_score(draws: Tensor, truth: float | Tensor) -> Tensor:
    """(mean - truth) / standard error, over dim 0."""
    return (draws.mean(0) - truth) / (draws.std(0) / math.sqrt(len(draws)))


def pair_names() -> list[str]:
    return registry.names()


def made(name: str, rows: int = 8) -> tuple[Built, dict[str, Tensor]]:
    """A pair of the library, built at its default sizes, with data that its own model draws."""
    pair = registry.find(name)
    built, observed = build(pair), list(pair.observed)
    if not observed:
        return built, {}
    if pair.data is not None and (pair.conditions or len(observed) > 1):
        fields = load(pair.data).train
        return build(pair, load(pair.data)), fields.batch(torch.arange(rows))
    with torch.no_grad(), built.local():
        drawn = built.run_model(n=rows)
    return built, {observed[0]: drawn.detach()}

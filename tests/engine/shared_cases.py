"""What a step is taken on in the tests of several processes: small pairs, and noise that does not know how
many processes there are."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae import TrainConfig, registry
from ppvae.build import build
from ppvae.built import Built
from ppvae.engine import EagerStep
from ppvae.engine.ranks import Ranks
from ppvae.engine.shared_step import SharedStep
from ppvae.estimators import ESTIMATORS, Estimator, find
from ppvae.pair import Pair
from tests.toys import MLP, MLP_VAE, bits, dataset

ROOT = __file__.rpartition("/tests/")[0]


class SharedNoise(TorchDispatchMode):
    """Every draw is made for all rows, from one generator, and each process gets those of its own rows.

    Which dimension holds the data is seen by its size, so that no other may be as long. What has none, such
    as a global latent, is drawn alike everywhere.
    """

    def __init__(self, ranks: Ranks, rows: int, seed: int = 0):
        super().__init__()
        self.share, self.rows = ranks.share(rows), rows
        self.own = self.share.stop - self.share.start
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        like = args[0] if isinstance(args[0], Tensor) else torch.empty(args[0])
        noise = self.drawn(like, torch.randn if name in ("randn", "normal", "normal_") else torch.rand)
        if name in ("rand", "rand_like", "randn"):
            return noise
        if name == "normal_" and len(args) == 1:
            return like.copy_(noise)
        if name == "normal":
            return args[0] + args[1] * noise
        if name == "bernoulli":
            return (noise < args[0]).to(like.dtype)
        if name == "exponential_":
            return like.copy_(-torch.log1p(-noise))
        raise NotImplementedError(f"{func} is not drawn here")

    def drawn(self, like: Tensor, draw: Any) -> Tensor:
        places = [i for i, size in enumerate(like.shape) if size == self.own]
        assert len(places) <= 1, f"which dimension of {tuple(like.shape)} holds the data?"
        shape = [self.rows if i in places else size for i, size in enumerate(like.shape)]
        whole = draw(shape, generator=self.generator, dtype=like.dtype)
        for place in places:
            whole = whole.narrow(place, self.share.start, self.own)
        return whole.contiguous()


class BitsModel(MLP):
    """Two latent bits."""

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=torch.full((self.latent,), 0.3)).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class BitsGuide(PyroModule):
    def __init__(self, model: BitsModel):
        super().__init__()
        self.encoder = nn.Linear(model.size, model.latent)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1))


class NormedGuide(PyroModule):
    """Its first layer is a BatchNorm of the data themselves, so that what it is given does not depend on
    how the batch is shared."""

    def __init__(self, model: MLP):
        super().__init__()
        self.norm = nn.BatchNorm1d(model.size)
        self.encoder = nn.Linear(model.size, model.latent)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.encoder(self.norm(x)), 1.0).to_event(1))


BITS_VAE = Pair(model=BitsModel, guide=BitsGuide, data=None, discrete={"z": "score"})
NORMED_VAE = Pair(model=MLP, guide=NormedGuide, data=None)
REGRESSION = registry.find(f"{ROOT}/tests/proof_pairs/regression.py:PAIR")
PAIRS = {"normal": MLP_VAE, "bits": BITS_VAE, "normed": NORMED_VAE, "regression": REGRESSION}


NAMED = ("elbo", "iwae:particles=5", "dreg:particles=5", "vimco:particles=5", "rws:particles=5")
BITS = ("vimco", "rws", "gumbel", "straight_through", "nvil", "enumeration", "disarm", "arm", "wake_sleep",
        "reinforce", "rebar", "relax", "tvo")  # fmt: skip
"""Estimators that are tried on bits; the others on a normal latent."""
NOT_ADDITIVE = {"mmd": "it compares the data of a batch with each other"}
"""Estimators whose loss is no mean over the data, so that shares of a batch give another one."""


def _cases() -> dict[str, tuple[torch.dtype, dict[str, Any]]]:
    cases: dict[str, tuple[torch.dtype, dict[str, Any]]] = {}
    for spelled in (*NAMED, *(name for name in ESTIMATORS if name not in NOT_ADDITIVE)):
        pair = "bits" if spelled.partition(":")[0] in BITS else "normal"
        for rows in (7, 8):
            case = {"pair": pair, "estimator": spelled, "rows": rows}
            cases[f"{spelled}-{rows}"] = (torch.float64, case)
            if spelled in NAMED:
                cases[f"{spelled}-{rows}-float32"] = (torch.float32, case)
    elbo = {"pair": "normal", "estimator": "elbo", "rows": 7}
    further = {
        "global": {**elbo, "pair": "regression", "rows": 9},  # not 7: w has 3 entries
        "adam": {**elbo, "optimizer": "adam", "clip_norm": 1.0, "weight_decay": 0.1, "lr": 0.01},
        "adamax": {**elbo, "optimizer": "adamax", "lr_groups": {"guide": 0.01}},
        "batch_norm": {**elbo, "pair": "normed", "steps": 1},
    }
    return {**cases, **{name: (torch.float64, case) for name, case in further.items()}}


CASES = _cases()
"""By name: the type of the numbers, and what `trained` takes."""


def regression(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(rows, 3, generator=generator), "y": torch.randn(rows, generator=generator)}


def step_of(
    pair: str, estimator: str | Estimator, rows: int, ranks: Ranks, **options: Any
) -> tuple[Built, Estimator, EagerStep, dict[str, Tensor]]:
    """A pair, its estimator, their step, and this process's share of `rows` rows; N is `rows`."""
    batch = regression(rows) if pair == "regression" else bits(rows)
    built = build(PAIRS[pair], dataset(batch))
    found = find(estimator) if isinstance(estimator, str) else estimator
    torch.manual_seed(0)
    found.prepare(built, batch)
    cls = SharedStep if ranks.size > 1 else EagerStep
    step = cls(built, found, TrainConfig(**{"optimizer": "sgd", "lr": 0.1, **options}))
    return built, found, step, {name: value[ranks.share(rows)] for name, value in batch.items()}


def trained(
    pair: str, estimator: str | Estimator, rows: int, ranks: Ranks, steps: int = 3, **options: Any
) -> dict[str, Tensor]:
    """Parameters, buffers and what was logged after some steps with shared noise."""
    built, found, step, batch = step_of(pair, estimator, rows, ranks, **options)
    scalars: dict[str, Tensor] = {}
    with SharedNoise(ranks, rows):
        for _ in range(steps):
            scalars = step(batch, {})
    state = {**built.state_dict(), **{f"estimator.{n}": v for n, v in found.state_dict().items()}}
    return {**state, **{f"logged.{name}": value for name, value in scalars.items()}}

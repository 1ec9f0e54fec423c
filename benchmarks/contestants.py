"""Who is timed: the same nets, start, data and Adam, in every form that there is to compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import pyro
import pyro.optim
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import Tensor, nn
from twins import Objective as TwinLoss
from twins import Twin, take_over

from ppvae.build import build
from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.data import Dataset
from ppvae.engine import STEPS
from ppvae.estimators import Estimator, Objective
from ppvae.estimators import find as find_estimator
from ppvae.pair import Pair

LR = 1e-3


@dataclass(frozen=True)
class Case:
    """One pair with one estimator, and its twin written by hand.

    Args:
        steps: of a round, one chunk.
        pyro_loss: the loss in Pyro of the same estimator; None: Pyro has none.
        particles: for NumPyro; None: it is not asked.
    """

    pair: Pair
    estimator: str
    twin: Callable[[], Twin]
    loss: TwinLoss
    steps: int
    sizes: dict[str, Any] = field(default_factory=dict)
    pyro_loss: Callable[[], Any] | None = None
    particles: int | None = None


@dataclass
class Contestant:
    """`contestant(indices)` takes a step for each tensor of indices, and returns the last loss in nats per
    datum. What it needs to begin, compiling included, happens in its first steps."""

    take: Callable[[Tensor], Any]
    """One step, on the data at these indices; its loss."""
    trained: Any
    """The built pair, or the twin, whose parameters move."""
    around: Callable[[], Any] = contextlib.nullcontext
    """Holds while it runs."""
    step: Any = None
    """Ours: what says which engine runs."""

    def __call__(self, order: Sequence[Tensor]) -> float:
        with self.around():
            for rows in order:
                loss = self.take(rows)
        if getattr(self.step, "mode", "") != "auto" and getattr(self.step, "reason", None):
            raise RuntimeError(f"{self.step.mode} fell back to eager: {self.step.reason}")
        return float(loss)


class ByHand(Estimator):
    """A loss written by hand in the place of an estimator, so that it is traced and compiled as ours is."""

    def __init__(self, loss: TwinLoss):
        super().__init__()
        self.loss = loss

    def estimate(self, built: Any, batch: Any, knobs: Any = None) -> Objective:
        return Objective(None, {"all": self.loss(built.model, batch["x"])})


class Field:
    """A case set up: the data on their device, and the start that all share."""

    def __init__(self, case: Case, dataset: Dataset, device: torch.device, seed: int = 0):
        self.case, self.dataset, self.device, self.seed = case, dataset, device, seed
        self.train = dataset.train.to(device)

    def built(self) -> Built:
        """The pair, at the common start."""
        return build(self.case.pair, self.dataset, self.seed, **self.case.sizes).to(self.device).train()

    def twin(self) -> Twin:
        """The twin, at the common start."""
        built, twin = self.built(), self.case.twin().to(self.device)
        take_over(twin, *parts(built))
        return twin

    def x(self, rows: Tensor) -> Tensor:
        return self.train.batch(rows)["x"]

    def ours(self, mode: str, **options: Any) -> Contestant:
        """A step of ours, without the loop around it."""
        config = TrainConfig(lr=LR, **options)
        return self._stepping(self.built(), find_estimator(self.case.estimator), config, mode)

    def traced(self) -> Contestant:
        """The loss written by hand, traced and compiled as ours is."""
        twin = self.twin()
        alone = Built(Pair(model=type(twin), guide=type(twin)), twin, _nothing, {}, None)
        return self._stepping(alone, ByHand(self.case.loss), TrainConfig(lr=LR), "graph")

    def _stepping(self, built: Built, estimator: Estimator, config: TrainConfig, mode: str) -> Contestant:
        step = STEPS[mode](built, estimator, config, read=self.train.batch)
        return Contestant(lambda rows: step(rows, {})["loss"], built, step=step)

    def by_hand(self, compile: bool) -> Contestant:
        """Plain torch: the loss, backward, fused Adam; compiled by `torch.compile`, or not."""
        twin = self.twin()
        optimizer = torch.optim.Adam(twin.parameters(), lr=LR, fused=True)
        loss_of: Any = partial(self.case.loss, twin)
        if compile:
            # The numbers of eager torch: inductor's own generator is a slow one on the CPU.
            torch._dynamo.reset()
            loss_of = torch.compile(loss_of, options={"fallback_random": True})

        def take(rows: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(self.x(rows))
            loss.backward()
            optimizer.step()
            return loss.detach()

        return Contestant(take, twin)

    def by_pyro(self, validate: bool = True) -> Contestant:
        """`SVI.step` on the pair's own model and guide."""
        assert self.case.pyro_loss is not None
        built = self.built()
        svi = SVI(built.model, built.guide, pyro.optim.Adam({"lr": LR}), self.case.pyro_loss())  # type: ignore
        with pyro.get_param_store().scope() as store:
            pass

        @contextlib.contextmanager
        def around() -> Any:
            # Two contestants' parameters have the same names: each has its store.
            with pyro.get_param_store().scope(store), pyro.validation_enabled(validate):
                yield

        return Contestant(lambda rows: svi.step(self.x(rows)) / len(rows), built, around)  # type: ignore

    def by_numpyro(self) -> Any:
        """NumPyro's jitted scan, a `NumPyroMLP`."""
        from numpyro_twin import NumPyroMLP, weights_of

        twin = self.twin()
        encoder, decoder = (
            [layer for layer in net.children() if isinstance(layer, nn.Linear)]
            for net in (twin.encoder, twin.decoder)
        )
        data = self.train.fields["x"].cpu().numpy().reshape(len(self.train), -1)
        layers = weights_of([*encoder, twin.head]), weights_of(decoder)
        return NumPyroMLP(*layers, data, self.case.particles or 1, LR)


def parts(built: Built) -> tuple[nn.Module, nn.Module]:
    """(model, guide) of a pair of modules."""
    model, guide = built.model, built.guide
    assert isinstance(model, nn.Module)
    assert isinstance(guide, nn.Module)
    return model, guide


def _nothing() -> None:
    """A guide that is never run."""


def pyro_elbo() -> Any:
    return Trace_ELBO(max_plate_nesting=1)


def pyro_iwae(particles: int) -> Callable[[], Any]:
    return partial(RenyiELBO, alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)


def contestants(field: Field) -> dict[str, Any]:
    """All that can be timed here, by name; see `step_time.py` for what the names mean."""
    found: dict[str, Any] = {
        "ours eager": field.ours("eager"),
        "ours graph": field.ours("graph"),
        "hand eager": field.by_hand(compile=False),
        "hand compiled": field.by_hand(compile=True),
        "hand traced": field.traced(),
    }
    if field.device.type == "cuda" and "cudagraph" in STEPS:
        found["ours cudagraph"] = field.ours("cudagraph")
    if field.case.particles is not None:
        found["ours graph bf16"] = field.ours("graph", precision="bf16")
    if field.case.pyro_loss is not None:
        found["Pyro SVI"] = field.by_pyro()
        found["Pyro unvalidated"] = field.by_pyro(validate=False)
    if field.case.particles is not None and has_numpyro():
        found["NumPyro"] = field.by_numpyro()
    return found


def has_numpyro() -> bool:
    return find_spec("numpyro") is not None

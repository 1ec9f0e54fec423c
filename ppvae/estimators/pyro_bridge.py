"""Both ways between Pyro's losses and ours.

`AsPyro(estimator)` is the `loss=` of a stock `pyro.infer.SVI`. `PyroLoss("Trace_ELBO")`, by name
`pyro:Trace_ELBO`, makes any loss of Pyro's an estimator of ours. Pyro's losses are scaled sums: under
`plate("data", B)` they are ours times B, under a subsampled plate ours times N.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.infer
import torch
from pyro import poutine
from pyro.infer.elbo import ELBO as PyroELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.distributions import constraints

from ppvae.built import Built, mixes_particles
from ppvae.errors import PairError, UsageError, nearest
from ppvae.estimators.base import Estimator, Knobs
from ppvae.estimators.gradients import with_gradients
from ppvae.estimators.objective import Objective
from ppvae.local_params import keep_own_parameters
from ppvae.looking import looking
from ppvae.scoring import score
from ppvae.terms import Terms
from ppvae.tracing import DATA_PLATE

LOSSES = (
    "Trace_ELBO",
    "TraceMeanField_ELBO",
    "TraceGraph_ELBO",
    "TraceEnum_ELBO",
    "TraceTMC_ELBO",
    "RenyiELBO",
    "ReweightedWakeSleep",
    "TraceTailAdaptive_ELBO",
    "EnergyDistance",
)
IN_PYTHON = ("Trace_MMD",)
"""Losses that no text can name, because they take a kernel."""
NEED_TWO = ("ReweightedWakeSleep", "TraceTailAdaptive_ELBO", "EnergyDistance")
"""Losses of two particles or more."""
OURS = ("num_particles", "max_", "vectorize_", "ignore_jit", "jit_", "retain_graph")
"""How the arguments of Pyro's losses begin that are said here, or mean nothing here."""
NO_BOUND = ("TraceTailAdaptive_ELBO", "Trace_MMD", "EnergyDistance")
"""Their value is no bound; the one of TraceTailAdaptive_ELBO is always inf, in Pyro too."""


class AsPyro(PyroELBO):
    """An estimator of ours in Pyro's interface: the loss is ours times the number of data N."""

    def __init__(self, estimator: Estimator, plates: int = 1, enumerated: tuple[str, ...] = ()):
        super().__init__(num_particles=estimator.particles, max_plate_nesting=plates)
        self.estimator, self.enumerated = estimator, enumerated

    def _get_trace(self, model, guide, args, kwargs):
        raise NotImplementedError("ours scores all particles at once: use differentiable_loss")

    def differentiable_loss(self, model, guide, *args, **kwargs) -> Tensor:
        scorer = _Functions(model, guide, args, kwargs, int(self.max_plate_nesting), self.enumerated)
        batch = {"given": True} if args or kwargs else {}
        objective, terms = self.estimator.scored(scorer, batch, {})  # type: ignore[arg-type]
        losses = objective.losses
        if set(losses) != {"all"}:
            raise PairError(
                f"SVI has one loss, but this one has {sorted(losses)}: train with ppvae.fit instead"
            )
        return losses["all"] * terms.num_data

    def loss(self, model, guide, *args, **kwargs) -> float:
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model, guide, *args, **kwargs) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())


class _Functions:
    """Scores the model and the guide that SVI was given, whatever their arguments are."""

    def __init__(self, model, guide, args, kwargs, plates: int, enumerated: tuple[str, ...]):
        self.model, self.guide = model, guide
        self.args, self.kwargs, self.plates, self.enumerated = args, kwargs, plates, enumerated

    @property
    def vectorize(self) -> bool:
        return not mixes_particles(self.model, self.guide)

    def score(self, batch, particles: int = 1, *, enumerated=None, draw=None, leaves: bool = False) -> Terms:
        return score(
            lambda **_: self.model(*self.args, **self.kwargs),
            lambda **_: self.guide(*self.args, **self.kwargs),
            batch,
            particles=particles,
            plates=self.plates,
            enumerated=self.enumerated if enumerated is None else enumerated,
            vectorize=self.vectorize,
            draw=draw,
            leaves=leaves,
        )


class PyroLoss(Estimator):
    """A loss of Pyro's by its class name, as `pyro:NAME` on the command line.

    Value and gradient are Pyro's own, divided by N. It reads numbers back from the device in every step, and
    where Pyro's estimator is joint over the batch or wrong under a scale, so is this one.

    Raises:
        UsageError: no such loss or option, a value that it cannot have, or too few particles.
    """

    def __init__(self, name: str = "Trace_ELBO", particles: int = 1, **options: Any):
        super().__init__(particles)
        if name not in (*LOSSES, *IN_PYTHON):
            raise UsageError(
                f"Pyro has no loss {name!r}{nearest(name, LOSSES) or '.'} It has: {', '.join(LOSSES)}"
            )
        _refuse(name, particles, options)
        self.name, self.options = name, options
        keep_own_parameters(*options.values())  # of the kernel of Trace_MMD
        self._losses: dict[tuple[int, bool], Any] = {}
        self._seen: weakref.WeakKeyDictionary[Built, dict[int, tuple[bool, bool, int]]]
        self._seen = weakref.WeakKeyDictionary()
        """Whether a pair has global latents, subsamples its data, and its N: found on its first batch of so
        many rows (a plate shows no subsample where the batch is all data)."""

    def _loss(self, plates: int, vectorize: bool) -> Any:
        # max_plate_nesting is said, never guessed: guessing draws random numbers on the first call.
        if (plates, vectorize) not in self._losses:
            cls = getattr(pyro.infer, self.name)
            options = {
                "num_particles": self.particles,
                "max_plate_nesting": plates,
                "vectorize_particles": vectorize and self.particles > 1,
            }
            if not issubclass(cls, PyroELBO):  # EnergyDistance counts its plate of particles itself
                options.pop("vectorize_particles")
                options["max_plate_nesting"] = plates + 1
            try:
                self._losses[plates, vectorize] = cls(**{**options, **self.options})
            except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
                raise UsageError(f"pyro:{self.name} with particles={self.particles}: {error}") from error
        return self._losses[plates, vectorize]

    def estimate(self, built: Built, batch: Mapping[str, Tensor], knobs: Knobs | None = None) -> Objective:
        inputs = built.inputs(batch)
        rows = len(next(iter(inputs.values()))) if inputs else 1
        seen = self._seen.setdefault(built, {})
        if rows not in seen:
            with looking(built):
                terms = built.score(batch, 1)
            if terms.penalties:
                raise PairError("Pyro's losses pass penalties by: use elbo for a pair that has some")
            seen[rows] = (terms.has_global, terms.subsampled, terms.num_data)
        has_global, subsampled, full = seen[rows]
        # A model that subsamples its own data plate scales by itself, and its loss is a sum over N.
        num_data = full if subsampled else (built.num_data or rows) if has_global else rows
        scale = 1.0 if subsampled else num_data / rows
        model = _scaled(_configured(built.run_model, built), scale)
        guide = _scaled(_configured(_touched(built.run_guide), built), scale)
        parameters = [p for p in built.parameters() if p.requires_grad]
        kept = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        with built.local():
            value = _loss_and_grads(self._loss(built.pair.plates, built.vectorize), model, guide, inputs)
        if isinstance(value, tuple):  # wake-sleep: (wake theta, wake phi)
            value = value[0]
        found = [(p, p.grad / num_data) for p in parameters if p.grad is not None]
        for p, grad in zip(parameters, kept, strict=True):
            p.grad = grad
        loss = torch.as_tensor(value, dtype=torch.get_default_dtype(), device=built.device) / num_data
        loss = loss.detach().reshape(())
        bound = None if self.name in NO_BOUND else -loss.expand(rows)
        return Objective(bound, {"all": with_gradients(loss, found)})


def _refuse(name: str, particles: int, options: Mapping[str, Any]) -> None:
    """Raise UsageError for what Pyro would refuse later, or in words that name none of ours."""
    if particles == 1 and name in NEED_TWO:
        raise UsageError(f"{name} needs two particles or more: write particles=2")
    if name in IN_PYTHON and not callable(options.get("kernel")):
        raise UsageError(f"{name} needs a kernel: make it in Python, PyroLoss({name!r}, kernel=...)")
    parameters = inspect.signature(getattr(pyro.infer, name)).parameters
    known = ["particles", *(n for n in parameters if not n.startswith(OURS))]
    for key, value in options.items():
        if key not in known:
            close = nearest(key, known) or "."
            raise UsageError(f"{name} has no option {key!r}{close} It has: {', '.join(known)}")
        kind = type(parameters[key].default)
        if kind in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{name}: {key}={value} is no number, as in {key}={parameters[key].default}")
        if kind is bool and not isinstance(value, bool):
            raise UsageError(f"{name}: {key}={value} is neither true nor false")
    if name == "RenyiELBO" and options.get("alpha") == 1:
        raise UsageError("RenyiELBO of alpha=1 is the ELBO: use pyro:Trace_ELBO")


def _loss_and_grads(loss: Any, model: Any, guide: Any, inputs: Mapping[str, Any]) -> Any:
    if hasattr(loss, "loss_and_grads"):
        return loss.loss_and_grads(model, guide, **inputs)
    value = loss(model, guide, **inputs)  # EnergyDistance is called, as SVI does with a function
    value.backward()
    return value.detach()


def _configured(fn, built: Built):
    names = built.enumerated
    if not names:
        return fn

    def config(site) -> Any:
        return {"enumerate": "parallel"} if site["name"] in names else {}

    return poutine.infer_config(fn, config)


def _touched(fn):
    """Pyro's losses differentiate only where a trace shows a parameter; nets of plain modules show none."""

    def wrapped(**inputs):
        zero = torch.zeros(())
        effectful(type="param")(lambda *_, **__: zero)(
            "ppvae.touch", zero, constraint=constraints.real, name="ppvae.touch"
        )
        return fn(**inputs)

    return wrapped


class _ScaleData(Messenger):
    """N / B on every site of the data plate: beside global latents, a batch stands for all data."""

    def __init__(self, scale: float):
        super().__init__()
        self.factor = scale

    def _pyro_sample(self, msg) -> None:
        if any(frame.name == DATA_PLATE for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self.factor


def _scaled(fn, scale: float):
    return fn if scale == 1.0 else _ScaleData(scale)(fn)

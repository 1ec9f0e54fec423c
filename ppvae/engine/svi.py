"""The literal `pyro.infer.SVI`, to compare with and to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.infer
import pyro.optim
import torch
from pyro import poutine
from torch import Tensor

from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.engine.eager import Read, as_given
from ppvae.errors import PairError, UsageError
from ppvae.estimators.base import Estimator
from ppvae.estimators.elbo import ELBO
from ppvae.local_params import name_of
from ppvae.looking import looking


class SVIStep:
    """The literal `pyro.infer.SVI(model, guide, optim, Trace_ELBO()).step(...)`, to compare with."""

    mode = "pyro"
    validated = True
    left: int | None = None
    account: str | None = None

    def __init__(self, built: Built, estimator: Estimator, config: TrainConfig, read: Read = as_given):
        plain = type(estimator) is ELBO and estimator.beta == 1 and estimator.free_bits == 0
        if not plain or config.optimizer != "adam" or built.enumerated or built.pair.groups:
            raise UsageError(
                "engine=pyro is SVI with Trace_ELBO and Adam: use estimator=elbo, optimizer=adam, "
                "or engine=eager"
            )
        for option in ("clip_norm", "kl_warmup", "lr_groups"):
            if getattr(config, option):
                raise UsageError(f"engine=pyro has no {option}: leave it out, or use engine=eager")
        if config.precision != "float32":
            raise UsageError("engine=pyro has no precision: leave it out, or use engine=eager")
        self.built, self.estimator, self.config, self.read = built, estimator, config, read
        self.particles = estimator.particles
        self.finite = torch.ones((), dtype=torch.bool)
        """Whether the last loss was; Pyro's own step takes what comes."""
        self.store = pyro.get_param_store()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.svi: pyro.infer.SVI | None = None
        self.scale = 1
        with self.store.scope() as self.scope:
            for key, unconstrained in built.params.items():
                # As PyroModule does it: the store holds the very parameter, which is then trained in place.
                name = name_of(key)
                self.store._constraints[name] = built._local.constraints[key]
                self.store._params[name] = unconstrained
                self.store._param_to_name[unconstrained] = name

    def __call__(self, given: Any, knobs: Mapping[str, Tensor], lr_factor: float = 1.0) -> dict[str, Tensor]:
        inputs = self.built.inputs(self.read(given))
        with self.store.scope(self.scope):
            if self.svi is None:
                self.svi = self._make(inputs, len(next(iter(inputs.values()))) if inputs else 1)
            self._set_lr(self.config.lr * lr_factor)
            loss: Any = self.svi.step(**inputs)
        mean = torch.as_tensor(loss) / self.scale
        self.finite = mean.isfinite()
        return {"loss": mean, "elbo": -mean}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """There is nothing to restore: such a run cannot be resumed."""

    def _set_lr(self, lr: float) -> None:
        """Pyro makes an optimizer a parameter, in its first step; none has a schedule of ours."""
        assert self.svi is not None
        for optimizer in self.svi.optim.optim_objs.values():
            for group in optimizer.param_groups:
                group["lr"] = lr

    def _make(self, inputs: Mapping[str, Tensor], rows: int) -> pyro.infer.SVI:
        """Refuse what SVI would get silently wrong: a name for two parameters, global latents, penalties."""
        with looking(self.built), torch.enable_grad(), poutine.block(), self.store.scope():
            guide = poutine.trace(self.built.run_guide).get_trace(**inputs)
            model = poutine.trace(poutine.replay(self.built.run_model, trace=guide)).get_trace(**inputs)
        both = set(_parameters(guide)) & set(_parameters(model))
        if both:
            raise PairError(
                f"model and guide both own a parameter {min(both)!r}, which Pyro's store would take for one: "
                "rename the attribute, or use engine=eager"
            )
        with looking(self.built):
            terms = self.built.score(inputs)
        if inputs and terms.has_global and not terms.subsampled:
            raise PairError(
                "engine=pyro would weigh global latents by the batch, not by all data: use engine=eager"
            )
        if terms.penalties:
            raise PairError(
                f"engine=pyro would leave out the penalty {min(terms.penalties)!r}: use engine=eager"
            )
        # Pyro's loss is a sum, over the batch or over the N that a subsampled plate stands for: eps and decay
        # as many times larger make Adam's steps the same.
        self.scale = terms.num_data if terms.subsampled else rows
        decay = self.config.weight_decay * self.scale
        options = {"lr": self.config.lr, "weight_decay": decay, "eps": 1e-8 * self.scale}
        optimizer = pyro.optim.Adam(options)  # type: ignore
        elbo = pyro.infer.Trace_ELBO(
            num_particles=self.particles,
            vectorize_particles=self.particles > 1,
            max_plate_nesting=self.built.pair.plates,
        )
        return pyro.infer.SVI(self.built.run_model, self.built.run_guide, optimizer, elbo)


def _parameters(trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "param"]

"""One training step: score -> objective -> gradients -> the optimizer of each group.

Nothing in here asks the device for a number: what is logged stays on the device until somebody reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.infer
import pyro.optim
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.errors import PairError, UsageError
from ppvae.estimators.base import Estimator
from ppvae.estimators.gradients import group_gradients
from ppvae.local_params import name_of
from ppvae.looking import looking


def make_optimizer(
    name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A torch optimizer by name; Adam and AdamW in one fused kernel, which reads no step count back."""
    options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    if name in ("adam", "adamw"):
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](parameters, fused=True, **options)
    if name == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, **options)
    return {"adamax": torch.optim.Adamax, "rmsprop": torch.optim.RMSprop}[name](parameters, **options)


class EagerStep:
    """The step in plain eager torch; the first batch runs with Pyro's validation on."""

    def __init__(self, built: Built, estimator: Estimator, config: TrainConfig):
        self.built, self.estimator, self.config = built, estimator, config
        self.groups = {name: list(members.values()) for name, members in built.groups().items()}
        own = [p for p in estimator.parameters() if p.requires_grad]
        if own:
            self.groups["estimator"] = own
        if not self.groups:
            raise PairError("the pair has no trainable parameter: give the model or the guide some")
        for name in config.lr_groups:
            if name not in self.groups:
                raise UsageError(f"lr_groups names {name!r}, but the groups are {', '.join(self.groups)}")
        self.optimizers = {
            name: make_optimizer(config.optimizer, members, self._lr(name), config.weight_decay)
            for name, members in self.groups.items()
        }
        self.validated = False

    def _lr(self, group: str) -> float:
        return self.config.lr_groups.get(group, self.config.lr)

    def __call__(self, batch: Mapping[str, Tensor], knobs: Mapping[str, Tensor], lr_factor: float = 1.0):
        """One step of every optimizer; returns scalars on the device: loss, elbo, rate, distortion, ..."""
        with pyro.validation_enabled(not self.validated):
            objective = self.estimator.estimate(self.built, batch, knobs)
            found = group_gradients(objective, self.built, self.estimator)
        self.validated = True
        for parameter, gradient in found:
            # The fused optimizers go through the memory of both, whatever their strides are.
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        for name, optimizer in self.optimizers.items():
            if self.config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.groups[name], self.config.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = self._lr(name) * lr_factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses = {f"loss/{name}": loss.detach() for name, loss in objective.losses.items()}
        return {"loss": sum(losses.values()), **objective.metrics, **(losses if len(losses) > 1 else {})}


class PyroStep:
    """The literal `pyro.infer.SVI(model, guide, optim, Trace_ELBO()).step(...)`, to compare with."""

    def __init__(self, built: Built, estimator: Estimator, config: TrainConfig):
        from ppvae.estimators.elbo import ELBO

        plain = type(estimator) is ELBO and estimator.beta == 1 and estimator.free_bits == 0
        if not plain or config.optimizer != "adam" or built.enumerated or built.pair.groups:
            raise UsageError(
                "engine=pyro is SVI with Trace_ELBO and Adam: use estimator=elbo, optimizer=adam, "
                "or engine=eager"
            )
        for option in ("clip_norm", "kl_warmup", "lr_groups"):
            if getattr(config, option):
                raise UsageError(f"engine=pyro has no {option}: leave it out, or use engine=eager")
        self.built, self.config, self.particles = built, config, estimator.particles
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

    def __call__(self, batch: Mapping[str, Tensor], knobs: Mapping[str, Tensor], lr_factor: float = 1.0):
        inputs = self.built.inputs(batch)
        with self.store.scope(self.scope):
            if self.svi is None:
                self.svi = self._make(inputs, len(next(iter(inputs.values()))) if inputs else 1)
            self._set_lr(self.config.lr * lr_factor)
            loss: Any = self.svi.step(**inputs)
        mean = torch.as_tensor(loss) / self.scale
        return {"loss": mean, "elbo": -mean}

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


STEPS = {"eager": EagerStep, "pyro": PyroStep}

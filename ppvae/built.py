"""A pair with its modules made: what estimators, the trainer and the evaluator work on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppvae.drawing import Draw
from ppvae.dreaming import at_dreamed, dreamed
from ppvae.errors import PairError
from ppvae.local_params import LocalParams, keep_own_parameters
from ppvae.pair import Pair
from ppvae.scoring import score
from ppvae.terms import Terms


class Built(nn.Module):
    """A pair with its modules made: what estimators, the trainer and the evaluator work on."""

    def __init__(
        self, pair: Pair, model: Callable, guide: Callable, sizes: dict[str, Any], num_data: int | None
    ):
        super().__init__()
        self.pair = pair
        self.sizes = sizes
        self.num_data = num_data
        self.model = model
        self.guide = guide
        self.params = nn.ParameterDict()
        keep_own_parameters(model, guide)
        self._local = LocalParams(self.params, self.parameters)
        self._takes = {"model": _accepted(self.model), "guide": _accepted(self.guide)}

    @contextmanager
    def local(self) -> Iterator[None]:
        """Inside, parameters live in this pair's modules alone."""
        if self._local in _PYRO_STACK:  # already inside
            yield
            return
        self._local.device = self.device
        # A model's own `torch.zeros(...)` then has the type of its parameters.
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype or default)
        try:
            with pyro.settings.context(module_local_params=True), self._local:
                yield
        finally:
            torch.set_default_dtype(default)

    @contextmanager
    def in_eval_mode(self) -> Iterator[None]:
        """Inside, no module trains; each gets its own training flag back."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    @property
    def device(self) -> torch.device | None:
        return next((p.device for p in self.parameters()), None)

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of the first floating parameter; None where there is none."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), None)

    def run_model(self, **inputs: Any) -> Any:
        return self.model(**_only(inputs, self._takes["model"]))

    def run_guide(self, **inputs: Any) -> Any:
        return self.guide(**_only(inputs, self._takes["guide"]))

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fields of a batch that the pair uses.

        Raises:
            PairError: an observed field or a condition is missing.
        """
        for role, names in (("observed field", self.pair.observed), ("condition", self.pair.conditions)):
            for name in names:
                if name not in batch:
                    if not batch:
                        raise PairError(f"the pair has no data, but a field {name!r}: give some, --data NAME")
                    raise PairError(
                        f"{role} {name!r} is missing from the data, which have {sorted(batch)}: "
                        f"add it, or take it out of Pair({'observed' if role[0] == 'o' else 'conditions'}=)"
                    )
        model_takes = self._takes["model"]
        if "mask" in batch and model_takes is not None and "mask" not in model_takes:
            raise PairError(
                "the data have missing values and the model takes no mask, it would score them as zeros: "
                "take mask= in the model and the guide, or leave those rows out"
            )
        takes = [names for names in self._takes.values() if names is not None]
        if not takes:
            return dict(batch)
        # A part that takes anything, as autoguides do, gets what the other names.
        wanted = {*takes[0], *takes[-1], *self.pair.observed, *self.pair.conditions}
        return {name: value for name, value in batch.items() if name in wanted}

    @property
    def vectorize(self) -> bool:
        """Whether particles run all at once; a BatchNorm mixes them in training and knows no leading dims."""
        if self.pair.vectorize is not None:
            return self.pair.vectorize
        return not mixes_particles(self)

    @property
    def enumerated(self) -> tuple[str, ...]:
        return tuple(name for name, how in self.pair.discrete.items() if how == "enumerate")

    def score(
        self,
        batch: Mapping[str, Tensor],
        particles: int = 1,
        *,
        enumerated: tuple[str, ...] | None = None,
        draw: Draw | None = None,
        leaves: bool = False,
    ) -> Terms:
        """`ppvae.scoring.score` with everything that this pair declares; `enumerated` wins over it."""
        with self.local():
            return score(
                self.run_model,
                self.run_guide,
                self.inputs(batch),
                particles=particles,
                plates=self.pair.plates,
                num_data=self.num_data,
                enumerated=self.enumerated if enumerated is None else enumerated,
                vectorize=self.vectorize,
                draw=draw,
                leaves=leaves,
            )

    def dream(self, batch: Mapping[str, Tensor], *, enumerated: tuple[str, ...] | None = None) -> Terms:
        """The terms of one draw of the model for each row of the batch: its latents, and in place of the
        observed fields what it drew (`ppvae.dreaming`)."""
        with self.local():
            seen, latents = dreamed(self.run_model, self.inputs(batch), self.pair.observed)
            return self.score(seen, enumerated=enumerated, draw=at_dreamed(latents))

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """Trainable parameters by optimizer group; each parameter is in exactly one.

        Bare `pyro.param`s of a function belong to `guide` when the guide is that function, else to `model`.
        """
        named = {name: p for name, p in self.named_parameters() if p.requires_grad}
        groups: dict[str, dict[str, nn.Parameter]] = {"model": {}, "guide": {}}
        further = {
            name: group
            for group, paths in self.pair.groups.items()
            for path in paths
            for name in _under(named, path)
        }
        stray = "guide" if not isinstance(self.guide, nn.Module) else "model"
        for name, parameter in named.items():
            root = name.split(".", 1)[0]
            home = root if root in groups else stray
            groups.setdefault(further.get(name, home), {})[name] = parameter
        return {group: members for group, members in groups.items() if members}


class BuiltMethods(Built):
    """A pair whose model and guide are two methods of one module."""

    def __init__(self, pair: Pair, module: Any, sizes: dict[str, Any], num_data: int | None):
        super().__init__(pair, module.model, module.guide, sizes, num_data)
        self.module = module

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        return {"model": {name: p for name, p in self.named_parameters() if p.requires_grad}}


def mixes_particles(*parts: Any) -> bool:
    """Whether there is a BatchNorm, which would take particles for data."""
    owners = [getattr(part, "__self__", part) for part in parts]  # of a method: its module
    modules = (m for owner in owners if isinstance(owner, nn.Module) for m in owner.modules())
    return any(isinstance(m, _BatchNorm) for m in modules)


def _under(named: Mapping[str, Any], path: str) -> list[str]:
    found = [name for name in named if name == path or name.startswith(path + ".")]
    if not found:
        raise PairError(
            f"Pair(groups=) names {path!r}, where no trainable parameter lies: use e.g. 'model.critic'"
        )
    return found


def _accepted(fn: Callable) -> frozenset[str] | None:
    """The names that a model or guide takes; None when it takes any (**kwargs)."""
    signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return None
    return frozenset(signature.parameters)


def _only(inputs: Mapping[str, Any], names: frozenset[str] | None) -> dict[str, Any]:
    return dict(inputs) if names is None else {name: value for name, value in inputs.items() if name in names}

"""Parameters that live in the modules of one fit, whatever statement makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro.params.param_store import _MODULE_NAMESPACE_DIVIDER
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import constraints, transform_to

from ppvae.errors import PairError


def key_of(name: str) -> str:
    """A module's name for a parameter: without dots, and none that a ParameterDict has a method of."""
    return "@" + name.replace(".", "/")


def name_of(key: str) -> str:
    """The inverse of `key_of`."""
    return key.removeprefix("@").replace("/", ".")


class LocalParams(Messenger):
    """Keeps bare `pyro.param` statements in a module of this fit instead of Pyro's global store."""

    def __init__(self, store: nn.ParameterDict, owned: Callable[[], Iterable[nn.Parameter]]):
        super().__init__()
        self.store, self.owned = store, owned
        self.passed: set[str] = set()
        self.constraints: dict[str, constraints.Constraint] = {}
        self.device: torch.device | None = None

    def _pyro_param(self, msg) -> None:
        if msg["fn"] != pyro.get_param_store().get_param:
            return  # the statement of a PyroModule, which keeps its own parameters
        name = msg["name"]
        key = key_of(name)
        args = (*msg["args"], None)
        if _MODULE_NAMESPACE_DIVIDER in name:  # pyro.module names a parameter that is there: never copy it
            msg["value"] = self._pass_on(key, args[1])
            msg["done"] = msg["stop"] = True
            return
        if key not in self.store:
            initial: Any = args[1] if args[1] is not None else msg["kwargs"].get("init_tensor")
            if initial is None:
                raise PairError(f"pyro.param({name!r}) has no initial value: pass one as its second argument")
            constraint = msg["kwargs"].get("constraint", constraints.real)
            with torch.no_grad():
                value: Any = initial() if callable(initial) else initial
                start = transform_to(constraint).inv(value.detach().to(self.device)).clone()
            self.store[key] = nn.Parameter(start)
            self.constraints[key] = constraint
        constraint = self.constraints.setdefault(key, msg["kwargs"].get("constraint", constraints.real))
        msg["value"] = transform_to(constraint)(self.store[key])
        msg["done"] = msg["stop"] = True

    def _pass_on(self, key: str, parameter: Any) -> nn.Parameter:
        """The parameter itself; that of a net which belongs to no module of the pair is adopted."""
        if key not in self.passed:
            self.passed.add(key)
            if not any(parameter is own for own in self.owned()):
                self.store[key] = parameter
                self.constraints[key] = constraints.real
        return parameter


def keep_own_parameters(*parts: Any) -> None:
    """A PyroModule made outside `build` has no place for parameters of its own yet; `local` needs one."""
    for module in (m for part in parts if isinstance(part, nn.Module) for m in part.modules()):
        context = getattr(module, "_pyro_context", None)
        if context is not None and not hasattr(context, "param_state"):
            context.param_state = {"params": {}, "constraints": {}}

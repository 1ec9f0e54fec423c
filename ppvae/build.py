"""Make a pair's modules: seeded, sized from the data, sharing nothing with any other fit."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.params.param_store import _MODULE_NAMESPACE_DIVIDER
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.nn.modules.batchnorm import _BatchNorm

from ppvae.errors import PairError, UsageError, nearest
from ppvae.pair import Pair
from ppvae.terms import Terms, score


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
        key = name.replace(".", "/")
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
        _keep_own_parameters(model, guide)
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
                    raise PairError(
                        f"{role} {name!r} is missing from the data, which have {sorted(batch)}: "
                        f"add it, or take it out of Pair({'observed' if role[0] == 'o' else 'conditions'}=)"
                    )
        model_takes, guide_takes = self._takes["model"], self._takes["guide"]
        if model_takes is None or guide_takes is None:
            return dict(batch)
        return {name: value for name, value in batch.items() if name in model_takes or name in guide_takes}

    @property
    def vectorize(self) -> bool:
        """Whether particles run all at once; a BatchNorm would mix them in training, and knows no leading dims ever."""
        if self.pair.vectorize is not None:
            return self.pair.vectorize
        return not any(isinstance(m, _BatchNorm) for m in self.modules())

    @property
    def enumerated(self) -> tuple[str, ...]:
        return tuple(name for name, how in self.pair.discrete.items() if how == "enumerate")

    def score(self, batch: Mapping[str, Tensor], particles: int = 1) -> Terms:
        """`ppvae.terms.score` with everything that this pair declares."""
        with self.local():
            return score(
                self.run_model,
                self.run_guide,
                self.inputs(batch),
                particles=particles,
                plates=self.pair.plates,
                num_data=self.num_data,
                enumerated=self.enumerated,
                vectorize=self.vectorize,
            )

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


def _keep_own_parameters(*parts: Any) -> None:
    """A PyroModule made outside `build` has no place for parameters of its own yet; `local` needs one."""
    for module in (m for part in parts if isinstance(part, nn.Module) for m in part.modules()):
        context = getattr(module, "_pyro_context", None)
        if context is not None and not hasattr(context, "param_state"):
            context.param_state = {"params": {}, "constraints": {}}


def _under(named: Mapping[str, Any], path: str) -> list[str]:
    found = [name for name in named if name == path or name.startswith(path + ".")]
    if not found:
        raise PairError(
            f"Pair(groups=) names {path!r}, where no trainable parameter lies: use e.g. 'model.critic'"
        )
    return found


def build(pair: Pair, data: Any = None, seed: int = 0, **sizes: Any) -> Built:
    """Make the modules of `pair` after seeding; the caller's random state is left as it was.

    Args:
        data: a `Dataset` (or anything with `shapes`, `num_data` and `train`) to read sizes off, or None.
        sizes: constructor arguments of the model or the guide; they win over the pair's and the data's.

    The parameters are float64 where the data are, else float32.

    A constructor argument is filled by name: `x_shape` with the event shape of field x, `y_classes` with the
    number of classes of field y, `num_data` with N, `x_mean` with the mean of field x over the training data.

    Raises:
        PairError: model or guide is no class or function, or an argument cannot be filled.
        UsageError: a size that neither constructor has.
    """
    for role, part in (("model", pair.model), ("guide", pair.guide)):
        if isinstance(part, nn.Module):
            raise PairError(
                f"Pair({role}=) is an instance: pass the class, so that two fits never share weights"
            )
        if part is not None and not callable(part):
            raise PairError(f"Pair({role}=) is a {type(part).__name__}: pass a class or a function")
    known = _arguments(pair.model) | (_arguments(pair.guide) - {"model"} if pair.guide is not None else set())
    for name in sizes:
        if name not in known:
            raise UsageError(
                f"{pair.name or 'the pair'} has no size {name!r}{nearest(name, known) or '.'} "
                f"It has: {sorted(known) or 'none'}"
            )
    given = {**pair.sizes, **sizes}
    with torch.random.fork_rng(devices=[]), pyro.settings.context(module_local_params=True):
        torch.manual_seed(seed)
        model = _make(pair.model, given, data, "model")
        if pair.guide is None:
            if not (callable(getattr(model, "model", None)) and callable(getattr(model, "guide", None))):
                raise PairError("Pair(guide=None) needs a model class with two methods, `model` and `guide`")
            built = _Methods(pair, model, given, getattr(data, "num_data", None))
        else:
            guide = _make(pair.guide, given, data, "guide", model=model)
            built = Built(pair, model, guide, given, getattr(data, "num_data", None))
    return built.double() if _is_double(data) else built


class _Methods(Built):
    """A pair whose model and guide are two methods of one module."""

    def __init__(self, pair: Pair, module: Any, sizes: dict[str, Any], num_data: int | None):
        super().__init__(pair, module.model, module.guide, sizes, num_data)
        self.module = module

    def groups(self) -> dict[str, dict[str, nn.Parameter]]:
        return {"model": {name: p for name, p in self.named_parameters() if p.requires_grad}}


def _make(part: Any, sizes: Mapping[str, Any], data: Any, role: str, **first: Any) -> Any:
    if not _is_class(part):
        return part
    arguments = {}
    for name, parameter in _parameters(part).items():
        if name in first:
            arguments[name] = first[name]
        elif name in sizes:
            arguments[name] = sizes[name]
        elif (found := _from_data(name, data)) is not None:
            arguments[name] = found
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            raise PairError(
                f"the {role}'s constructor needs {name!r}, which the data do not tell: give it a default, "
                f"put it into Pair(sizes=), or pass {name}=... when you build"
            )
    return part(**arguments)


def _from_data(name: str, data: Any) -> Any:
    if data is None:
        return None
    if name == "num_data":
        return data.num_data
    stem, _, what = name.rpartition("_")
    if stem not in getattr(data, "shapes", {}):
        return None
    if what == "shape":
        return tuple(data.shapes[stem])
    if what == "classes":
        return data.num_classes(stem)
    if what == "mean":
        return data.train.mean(stem)
    return None


def _is_double(data: Any) -> bool:
    """Whether the data are float64: the modules then are, too."""
    if data is None or not len(data.train):
        return False
    first = data.train.batch(torch.arange(1))
    return any(value.dtype == torch.float64 for value in first.values())


def _is_class(part: Any) -> bool:
    return inspect.isclass(part.func if isinstance(part, functools.partial) else part)


def _parameters(part: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(part).parameters)


def _arguments(part: Any) -> set[str]:
    if not _is_class(part):
        return set()
    return {n for n, p in _parameters(part).items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _accepted(fn: Callable) -> frozenset[str] | None:
    """The names that a model or guide takes; None when it takes any (**kwargs)."""
    signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return None
    return frozenset(signature.parameters)


def _only(inputs: Mapping[str, Any], names: frozenset[str] | None) -> dict[str, Any]:
    return dict(inputs) if names is None else {name: value for name, value in inputs.items() if name in names}

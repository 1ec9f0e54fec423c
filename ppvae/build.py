"""Make a pair's modules: seeded, sized from the data, sharing nothing with any other fit."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import nn

from ppvae.built import Built, BuiltMethods
from ppvae.errors import PairError, UsageError, nearest
from ppvae.pair import Pair


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
    known = arguments(pair.model) | (arguments(pair.guide) - {"model"} if pair.guide is not None else set())
    for name in sizes:
        if name not in known:
            raise UsageError(
                f"{pair.name or 'the pair'} has no size {name!r}{nearest(name, known) or '.'} "
                f"It has: {', '.join(sorted(known)) or 'none'}"
            )
    given = {**pair.sizes, **sizes}
    with torch.random.fork_rng(devices=[]), pyro.settings.context(module_local_params=True):
        torch.manual_seed(seed)
        model = _make(pair.model, given, data, "model")
        if pair.guide is None:
            if not (callable(getattr(model, "model", None)) and callable(getattr(model, "guide", None))):
                raise PairError("Pair(guide=None) needs a model class with two methods, `model` and `guide`")
            built = BuiltMethods(pair, model, given, getattr(data, "num_data", None))
        else:
            guide = _make(pair.guide, given, data, "guide", model=model)
            built = Built(pair, model, guide, given, getattr(data, "num_data", None))
    return built.double() if _is_double(data) else built


def _make(part: Any, sizes: Mapping[str, Any], data: Any, role: str, **first: Any) -> Any:
    if not _is_class(part):
        return part
    given = {}
    for name, parameter in _parameters(part).items():
        if name in first:
            given[name] = first[name]
        elif name in sizes:
            given[name] = sizes[name]
        elif (found := _from_data(name, data)) is not None:
            given[name] = found
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            raise PairError(
                f"the {role}'s constructor needs {name!r}, which the data do not tell: give it a default, "
                f"put it into Pair(sizes=), or pass {name}=... when you build"
            )
    return part(**given)


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


def arguments(part: Any) -> set[str]:
    """The names of a class's constructor arguments; none for a function."""
    if not _is_class(part):
        return set()
    return {n for n, p in _parameters(part).items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}

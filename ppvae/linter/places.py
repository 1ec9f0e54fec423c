"""Where in the user's own code something stands: the file and line that a finding points at."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import nn

import ppvae
from ppvae.linter.wording import one_line
from ppvae.pair import Pair


class Place(NamedTuple):
    """A line of a file; `line` counts from 1."""

    file: str | None
    line: int | None


NOWHERE = Place(None, None)
_PPVAE = Path(ppvae.__file__).parent
_STDLIB = Path(sysconfig.get_paths()["stdlib"])
_LIBRARIES = tuple(str(Path(str(module.__file__)).parent) + "/" for module in (pyro, torch))
_WRAPPERS = ("/jaxtyping/", "/beartype/", "/numpy/", "/torchvision/", "/_pytest/", "/pluggy/")


@functools.lru_cache(maxsize=4096)
def is_users(file: str) -> bool:
    """Whether a file is the user's: no part of Python, torch, Pyro or the library; its pairs are such."""
    if file.startswith("<") or not file:
        return False
    path = Path(file)
    if path.is_relative_to(_PPVAE):
        return path.relative_to(_PPVAE).parts[0] in ("models", "guides")
    if file.startswith(_LIBRARIES) or any(part in file for part in _WRAPPERS):
        return False
    return not path.is_relative_to(_STDLIB) or "site-packages" in path.parts or "dist-packages" in path.parts


def of_caller(stop: types.CodeType) -> Place:
    """The innermost line of user code below the frame that runs `stop`."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not stop:
        if is_users(frame.f_code.co_filename):
            return Place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return NOWHERE


def of_exception(error: BaseException, stop: types.CodeType | None = None) -> Place:
    """The deepest line of user code in the traceback, below the frame that runs `stop`."""
    found, below = NOWHERE, stop is None
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code is stop:
            found, below = NOWHERE, True
        elif below and is_users(code.co_filename):
            found = Place(code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found


def located(error: BaseException) -> str:
    """An error that nobody foresaw, in one line: file and line of the user's code in it, kind and text."""
    place, kind, text = of_exception(error), type(error).__name__, one_line(error)
    where = f"{place.file}:{place.line}: " if place.file else ""
    return f"{where}{kind}" if text == kind else f"{where}{kind}: {text}"


def of_object(thing: Any) -> Place:
    """Where a class, function, or the class of an instance is defined."""
    thing = _bare(thing)
    if isinstance(thing, types.FunctionType):
        return Place(thing.__code__.co_filename, thing.__code__.co_firstlineno)
    if isinstance(thing, types.MethodType):
        return of_object(thing.__func__)
    cls = thing if inspect.isclass(thing) else type(thing)
    for base in cls.__mro__:
        node = _class_node(base)
        if node is not None:
            return Place(_file(base), node.lineno)
    return NOWHERE


def of_forward(thing: Any) -> Place:
    """Where the statements of a model or guide begin: its `forward`, `__call__`, or the function itself."""
    thing = _bare(thing)
    for name in ("forward", "__call__"):
        method = getattr(type(thing), name, None)
        if isinstance(method, types.FunctionType) and is_users(method.__code__.co_filename):
            return of_object(method)
    return of_object(thing)


def of_attribute(owner: Any, attribute: str) -> Place:
    """The line `self.attribute = ...` in the class of `owner`, else the line of the class."""
    for base in type(owner).__mro__:
        node = _class_node(base)
        for inner in ast.walk(node) if node else ():
            if isinstance(inner, ast.Assign):
                targets = inner.targets
            elif isinstance(inner, ast.AnnAssign | ast.AugAssign):
                targets = [inner.target]
            elif isinstance(inner, ast.Call) and any(
                isinstance(arg, ast.Constant) and arg.value == attribute for arg in inner.args
            ):
                return Place(_file(base), inner.lineno)  # register_parameter("name", ...), setattr
            else:
                continue
            if any(_assigns(target, attribute) for target in targets):
                return Place(_file(base), inner.lineno)
    return of_object(owner)


def of_parameter(root: nn.Module, name: str) -> Place:
    """Where the parameter `name` of `root` is made: in the class of user code that is nearest to it."""
    owner, attribute, here = None, "", root
    for part in name.split("."):
        if any(is_users(_file(base) or "") for base in type(here).__mro__):
            owner, attribute = here, part
        if isinstance(here, nn.Module):
            here = getattr(here, part, None)
    return of_attribute(owner, attribute) if owner is not None else NOWHERE


def of_name(function: Any, name: str) -> Place:
    """The line of the file of `function` that assigns the global or enclosing variable `name`."""
    place = of_object(function)
    tree = _tree(place.file) if place.file else None
    lines = [
        node.lineno
        for node in (ast.walk(tree) if tree else ())
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    ]
    above = [line for line in lines if line <= (place.line or 0)]
    return Place(place.file, max(above)) if above else place


def of_pair(pair: Pair, keyword: str | None = None) -> Place:
    """The `Pair(...)` call, or the line of one of its keywords; else where the guide or model is defined."""
    parts = [part for part in (pair.guide, pair.model) if part is not None]
    homes = [of_object(part) for part in parts]
    for module in list(sys.modules.values()):
        values = vars(module).values() if isinstance(module, types.ModuleType) else ()
        for value in list(values):
            if type(value) is Pair and value.model is pair.model and value.guide is pair.guide:
                homes.insert(0, Place(getattr(module, "__file__", None), None))
                break
    for home in homes:
        call = _pair_call(pair, home)
        if call is not None:
            value = next((k.value for k in call.keywords if k.arg == keyword), None)
            return Place(home.file, (value or call).lineno)
    return next((home for home in homes if home.file and home.line), NOWHERE)


def _pair_call(pair: Pair, home: Place) -> ast.Call | None:
    """The `Pair(...)` of the file that says most of what `pair` says; of equals, the nearest below it."""
    tree = _tree(home.file) if home.file and is_users(home.file) else None
    calls = [
        n for n in (ast.walk(tree) if tree else ()) if isinstance(n, ast.Call) and _last(n.func) == "Pair"
    ]
    best = None
    for call in calls:
        named, agree = _agreement(pair, call)
        distance = call.lineno - (home.line or 0)
        key = (-agree, distance < 0, abs(distance))
        if (named or len(calls) == 1) and (best is None or key < best[0]):
            best = (key, call)
    return best[1] if best is not None else None


def _agreement(pair: Pair, call: ast.Call) -> tuple[bool, int]:
    """Whether a call names the pair's parts, and how many of its keywords agree, less those that do not."""
    given = {k.arg: k.value for k in call.keywords if k.arg}
    agree, named = 0, False
    for field in dataclasses.fields(pair):
        value, node = getattr(pair, field.name), given.get(field.name)
        if field.name in ("model", "guide") and node is not None and value is not None:
            made = isinstance(node, ast.Call)
            same = _last(node.func if isinstance(node, ast.Call) else node) == _name(value)
            named = named or same
            agree += same - (made != isinstance(value, nn.Module))
            continue
        if node is None:
            default = (
                field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            )
            agree -= field.name != "name" and value is not default and value != default
            continue
        try:
            agree += 1 if ast.literal_eval(node) == value else -1
        except ValueError:
            continue
    return named, agree


def _bare(thing: Any) -> Any:
    while isinstance(thing, functools.partial):
        thing = thing.func
    return inspect.unwrap(thing) if callable(thing) and not inspect.isclass(thing) else thing


def _name(part: Any) -> str:
    part = _bare(part)
    return getattr(part, "__name__", type(part).__name__)


def _last(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _assigns(target: ast.AST, attribute: str) -> bool:
    if isinstance(target, ast.Tuple | ast.List):
        return any(_assigns(part, attribute) for part in target.elts)
    return isinstance(target, ast.Attribute) and target.attr == attribute


@functools.lru_cache(maxsize=64)
def _parsed(file: str, modified: float) -> ast.Module | None:
    try:
        return ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def _tree(file: str) -> ast.Module | None:
    path = Path(file)
    return _parsed(file, path.stat().st_mtime) if path.is_file() else None


def _functions(cls: type) -> Iterator[types.FunctionType]:
    for value in vars(cls).values():
        value = getattr(value, "fget", value)
        value = inspect.unwrap(value) if isinstance(value, types.FunctionType) else value
        if isinstance(value, types.FunctionType):
            yield value


def _file(cls: type) -> str | None:
    for function in _functions(cls):
        if is_users(function.__code__.co_filename):
            return function.__code__.co_filename
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def _class_node(cls: type) -> ast.ClassDef | None:
    """The class statement: of the name, and around the line of one of the methods."""
    file = _file(cls)
    tree = _tree(file) if file is not None and is_users(file) else None
    if tree is None:
        return None
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
    lines = [f.__code__.co_firstlineno for f in _functions(cls) if f.__code__.co_filename == file]
    for node in nodes:
        if any(node.lineno <= line <= (node.end_lineno or line) for line in lines):
            return node
    return nodes[0] if nodes else None

"""Before anything runs: the Pair itself, its constructors, and the names of its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from torch import nn

from ppvae.build import arguments as _named_arguments
from ppvae.build import build
from ppvae.errors import PPVAEError, nearest
from ppvae.linter import places
from ppvae.linter.subject import Subject
from ppvae.linter.wording import one_line, told
from ppvae.pair import Handling, Pair


def parts(subject: Subject) -> None:
    """Model and guide are classes or functions, and the words of the Pair exist."""
    pair = subject.pair
    for role, part in (("model", pair.model), ("guide", pair.guide)):
        where = places.of_pair(pair, role)
        if isinstance(part, nn.Module):
            name = type(part).__name__
            subject.error(
                "instance",
                f"Pair({role}=) is an instance of {name}: two fits would share its weights",
                where,
                f"pass the class, Pair({role}={name}); sizes go into Pair(sizes=)",
            )
        elif (part is None and role == "model") or (part is not None and not callable(part)):
            subject.error(
                "instance", f"Pair({role}=) is a {type(part).__name__}", where, "pass a class or a function"
            )
    for field in ("observed", "conditions"):
        value: Any = getattr(pair, field)
        if isinstance(value, str) or not all(isinstance(name, str) for name in value):
            subject.error(
                "names",
                f"Pair({field}={value!r}) is no tuple of names",
                places.of_pair(pair, field),
                f"write {field}=({str(value)!r},)" if isinstance(value, str) else f'write {field}=("x",)',
            )
    for field in ("discrete", "groups"):
        value = getattr(pair, field)
        if not isinstance(value, Mapping):
            subject.error(
                "names",
                f"Pair({field}=) is a {type(value).__name__}, not a dict",
                places.of_pair(pair, field),
                'write discrete={"site": "enumerate"}'
                if field == "discrete"
                else 'write groups={"name": ("model.part",)}',
            )
    if not subject.report.ok:
        return
    for site, how in pair.discrete.items():
        if how not in get_args(Handling):
            subject.error(
                "handling",
                f"Pair(discrete=) handles {site!r} by {how!r}{nearest(str(how), get_args(Handling))}",
                places.of_pair(pair, "discrete"),
                "use 'enumerate', 'score' or 'reparameterized'",
                site,
            )
        elif how == "enumerate" and "*" in site:
            subject.error(
                "handling",
                f"Pair(discrete=) enumerates {site!r}, but each enumerated site must be named",
                places.of_pair(pair, "discrete"),
                "write one entry for each site",
                site,
            )
    arguments = _constructor(pair)
    for name in pair.sizes:
        if name not in arguments:
            subject.error(
                "sizes",
                f"Pair(sizes=) gives {name!r}, which no constructor of the pair "
                f"takes{nearest(name, arguments)}",
                places.of_pair(pair, "sizes"),
                f"name an argument of the model's or the guide's class: {', '.join(sorted(arguments))}"
                if arguments
                else "remove it: model and guide are functions, which are not constructed",
                name,
            )
    if pair.plates < 1:
        where = places.of_pair(pair, "plates")
        subject.error(
            "plates", f"plates={pair.plates}: the data plate counts as one", where, "plates=1 or more"
        )


def _constructor(pair: Pair) -> set[str]:
    """What can be given by name when model and guide are made."""
    guide = set() if pair.guide is None else _named_arguments(pair.guide) - {"model"}
    return _named_arguments(pair.model) | guide


def construct(subject: Subject, sizes: dict[str, Any]) -> None:
    """Make the modules, unless they were given."""
    if subject.built is not None:
        return
    try:
        subject.built = build(subject.pair, subject.data, seed=subject.seed, **sizes)
    except PPVAEError as error:
        message, fix = told(error)
        role = "guide" if "guide" in message else "model"
        fix = fix or "write the class as the message says, or pass model and guide as two"
        subject.error("constructor", message, places.of_pair(subject.pair, role), fix)
    except Exception as error:
        where = places.of_exception(error, construct.__code__)
        if where.file is None:
            where = places.of_object(subject.pair.guide or subject.pair.model)
        text = one_line(error)
        fix = "make the class with the sizes that the data and Pair(sizes=) give"
        if "before Module.__init__" in text:
            fix = "call super().__init__() first in __init__"
        elif "missing" in text and "argument" in text:
            fix = "give the argument a default, or put it into Pair(sizes=)"
        elif "has no attribute" in text:
            fix = "the guide's constructor gets the built model: read only attributes that the model has"
        subject.error("constructor", f"the constructor raises {type(error).__name__}: {text}", where, fix)


def groups(subject: Subject) -> None:
    """Each path of Pair(groups=) leads to parameters."""
    names = [name for name, p in subject.built.named_parameters() if p.requires_grad]
    for group, paths in subject.pair.groups.items():
        for path in (paths,) if isinstance(paths, str) else paths:
            if not any(name == path or name.startswith(f"{path}.") for name in names):
                prefixes = {name.rsplit(".", i)[0] for name in names for i in range(name.count(".") + 1)}
                subject.error(
                    "groups",
                    f"Pair(groups=) gives {group!r} the path {path!r}, where no trainable parameter lies"
                    f"{nearest(path, sorted(prefixes))}",
                    places.of_pair(subject.pair, "groups"),
                    "give an attribute path that begins with model. or guide., such as 'model.critic'",
                    path,
                )
        if isinstance(paths, str):
            subject.error(
                "groups",
                f"Pair(groups=) gives {group!r} a string, not a tuple of paths",
                places.of_pair(subject.pair, "groups"),
                f"write {{{group!r}: ({paths!r},)}}",
                group,
            )


def fields(subject: Subject) -> None:
    """The data hold what the pair declares, and the arguments are named as the fields are."""
    pair, pool = subject.pair, subject.pool
    for role, declared in (("observed", pair.observed), ("conditions", pair.conditions)):
        for name in declared:
            if name not in pool:
                what = "observed field" if role == "observed" else "condition"
                if not pool:
                    subject.error(
                        "missing-field",
                        f"the pair has no data, but a field {name!r}",
                        places.of_pair(pair, "data"),
                        'give some: --data NAME, fit(pair, data), or Pair(data="name")',
                        name,
                    )
                    return
                subject.error(
                    "missing-field",
                    f"{what} {name!r} is missing from the data, which have: {', '.join(pool) or 'nothing'}"
                    f"{nearest(name, pool)}",
                    places.of_pair(pair, role),
                    f"add {name!r} to the data, or take it out of Pair({role}=)",
                    name,
                )
    if not subject.report.ok:
        return
    taken = {role: _arguments(subject.part(role)) for role in ("model", "guide")}
    if "mask" in pool and taken["model"] is not None and "mask" not in taken["model"]:
        subject.error(
            "missing-values",
            "the data have missing values and the model takes no mask, it would score them as zeros",
            places.of_forward(subject.part("model")),
            "take mask=None in the model and the guide, or leave those rows out",
        )
        return
    for role in ("model", "guide"):
        arguments = taken[role]
        if arguments is None:
            continue
        strange = [name for name in arguments if name not in pool and name not in ("n", "self", "model")]
        needed = [name for name in strange if arguments[name].default is inspect.Parameter.empty]
        lacking = [name for name in pair.observed if name not in arguments] if role == "model" else []
        if role == "guide" and needed:
            lacking = [name for name in (*pair.observed, *pool) if name not in arguments]
        if lacking and (strange or needed):
            old = (needed or strange)[0]
            subject.error(
                "argument",
                f"the {role} takes {old!r}, which is no field of the data ({', '.join(pool)})",
                places.of_forward(subject.part(role)),
                f"rename the argument {old!r} to {lacking[0]!r}: fields are passed by name",
                old,
            )
        elif lacking:
            subject.error(
                "argument",
                f"the model takes no argument {lacking[0]!r}, an observed field of the pair",
                places.of_forward(subject.part(role)),
                f"add it, model({lacking[0]}=None, ...), or take it out of Pair(observed=)",
                lacking[0],
            )
        elif needed:
            subject.error(
                "argument",
                f"the {role} needs {needed[0]!r}, which is no field of the data ({', '.join(pool) or 'none'})"
                f"{nearest(needed[0], pool)}",
                places.of_forward(subject.part(role)),
                "name it as the field is named, or give it a default",
                needed[0],
            )
    for name in pair.conditions:
        if all(arguments is not None and name not in arguments for arguments in taken.values()):
            subject.error(
                "argument",
                f"neither model nor guide takes the condition {name!r}",
                places.of_forward(subject.part("model")),
                f"add the argument {name!r}, or take it out of Pair(conditions=)",
                name,
            )


def _arguments(part: Any) -> dict[str, inspect.Parameter] | None:
    """What a model or guide takes by name; None when it takes anything."""
    found = inspect.signature(part.forward if isinstance(part, nn.Module) else part).parameters
    if any(p.kind is p.VAR_KEYWORD for p in found.values()):
        return None
    return {name: p for name, p in found.items() if p.kind is not p.VAR_POSITIONAL}

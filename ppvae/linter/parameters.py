"""Parameters that are not registered, that no loss reaches, or whose gradient is no number."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.graphs import graph_leaves
from ppvae.linter import places, search
from ppvae.linter.explain import explain
from ppvae.linter.places import NOWHERE, Place
from ppvae.linter.subject import Subject
from ppvae.terms import Terms


def check(subject: Subject) -> None:
    """Compare the parameters that are registered with those that the terms depend on."""
    draws = [_terms(subject, shift) for shift in range(3)]
    if any(terms is None for terms in draws):
        return
    reached = {id(leaf): leaf for terms in draws if terms is not None for leaf in graph_leaves(_roots(terms))}
    built = subject.built
    named = dict(built.named_parameters(remove_duplicate=False))
    registered = {id(p) for p in named.values()}
    _hidden(subject, [leaf for key, leaf in reached.items() if key not in registered])
    copies = _copies(subject)
    unreached: dict[Place, list[str]] = {}
    for name, parameter in built.named_parameters():
        if parameter.requires_grad and id(parameter) not in reached and name not in copies:
            where, shown = _place(subject, name)
            unreached.setdefault(where, []).append(shown)
    for where, names in unreached.items():
        more = f" (and {len(names) - 1} more of that line)" if len(names) > 1 else ""
        subject.error(
            "no-gradient",
            f"parameter {names[0]!r}{more} reaches neither the terms nor a penalty, so it is never trained",
            where,
            "use it (is a .detach() or torch.no_grad() in the way?), delete it, or freeze it with "
            "requires_grad_(False)",
            names[0],
        )
    if subject.report.ok:
        _gradients(subject, [terms for terms in draws if terms is not None])


def _terms(subject: Subject, shift: int) -> Terms | None:
    vectorize = subject.built.vectorize
    terms, run = subject.score(subject.inputs, None, 1, subject.seed + shift, vectorize)
    if terms is None:
        explain(subject, run, subject.inputs, "score")
    return terms


def _roots(terms: Terms) -> list[Tensor]:
    tensors = [t for site in terms.sites.values() for t in (site.log_p, site.log_q) if t is not None]
    return [t for t in [*tensors, *(p.value for p in terms.penalties.values())] if t.requires_grad]


def _copies(subject: Subject) -> set[str]:
    """Entries that `pyro.module` makes for parameters which their own module holds already."""
    own = {id(p) for name, p in subject.built.named_parameters() if not name.startswith("params.")}
    copies = set()
    for record in [*subject.model.of("param"), *subject.guide.of("param")]:
        arguments = record.message["args"]
        if record.bare and len(arguments) > 1 and "$$$" in record.name and id(arguments[1]) in own:
            copies.add("params." + record.name.replace(".", "/"))
    return copies


def _place(subject: Subject, name: str) -> tuple[Place, str]:
    root, _, rest = name.partition(".")
    if root == "params":
        shown = rest.replace("/", ".")
        records = [*subject.model.of("param"), *subject.guide.of("param")]
        return next((r.place for r in records if r.name == shown), NOWHERE), shown
    return places.of_parameter(subject.built, name), name


def _hidden(subject: Subject, leaves: list[Tensor]) -> None:
    said: set[tuple[Any, ...]] = set()
    for leaf in leaves:
        found, user = None, "model"
        for role in ("guide", "model"):
            if found is None:
                found, user = search.find(subject.part(role), leaf, role), role
        if found is None:
            shown, place, fix = (
                "a tensor",
                places.of_object(subject.part("model")),
                "make it an nn.Parameter of the class",
            )
            group: tuple[Any, ...] = ("?",)
        else:
            shown, owner, attribute, kind = found.path, found.owner, found.attribute, found.kind
            group = (id(owner), attribute)
            if isinstance(owner, types.FunctionType):
                place = places.of_name(owner, attribute)
                fix = (
                    f"write it as a class that owns it, class {user.title()}(PyroModule), and pass the class"
                )
            else:
                place = places.of_attribute(owner, attribute)
                fix = {
                    "list": f"keep it in an nn.ModuleList: self.{attribute} = nn.ModuleList([...])",
                    "dict": f"keep it in an nn.ModuleDict: self.{attribute} = nn.ModuleDict(...)",
                }.get(
                    kind,
                    f"make it an nn.Parameter: self.{attribute} = nn.Parameter(...)"
                    if isinstance(owner, nn.Module)
                    else f"derive {type(owner).__name__} from PyroModule or nn.Module",
                )
        if group in said:
            continue
        said.add(group)
        subject.error(
            "unregistered",
            f"{shown}, of shape {tuple(leaf.shape)}, needs a gradient but is no registered parameter: no "
            "optimizer sees it",
            place,
            fix,
            shown,
        )


def shared(subject: Subject) -> None:
    """A module that a function reads from outside of itself serves every fit."""
    known = {id(module) for module in subject.built.modules()}
    for role in ("model", "guide"):
        part = subject.part(role)
        if not isinstance(part, types.FunctionType):
            continue
        for held in search.walk(part, role):
            outside = isinstance(held.thing, nn.Module) and id(held.thing) not in known
            if (
                outside
                and isinstance(held.owner, types.FunctionType)
                and any(True for _ in held.thing.parameters())
            ):
                subject.warn(
                    "shared-module",
                    f"the {role} uses the module {held.attribute!r}, which is made outside of it: two fits "
                    "share it",
                    places.of_name(held.owner, held.attribute),
                    f"write the {role} as a class that owns it, class {role.title()}(PyroModule), and pass "
                    "the class",
                    held.attribute,
                )
                return


def _gradients(subject: Subject, draws: list[Terms]) -> None:
    named = {name: p for name, p in subject.built.named_parameters() if p.requires_grad}
    largest = dict.fromkeys(named, 0.0)
    for terms in draws:
        for name, grad in _gradient(terms, named).items():
            if not bool(grad.isfinite().all()):
                where, shown = _place(subject, name)
                subject.error(
                    "nonfinite",
                    f"the gradient of parameter {shown!r} is nan or inf at initialization",
                    where,
                    "look for sqrt or norm at 0, log of 0, and torch.where that hides a nan; add a small "
                    "constant inside",
                    shown,
                )
                return
            largest[name] = max(largest[name], float(grad.abs().max()) if grad.numel() else 1.0)
    silent = [name for name, size in largest.items() if size == 0.0 and name not in _copies(subject)]
    if silent:
        _still_silent(subject, silent, named)


def _gradient(terms: Terms, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    loss = -terms.log_weight.mean() - terms.log_global.mean() / terms.num_data
    for site in terms.sites.values():
        if site.how == "score" and site.log_q is not None:
            loss = loss + site.log_q.mean()
    for penalty in terms.penalties.values():
        loss = loss + penalty.value
    if not loss.requires_grad or not named:
        return {}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: grad for name, grad in zip(named, grads, strict=True) if grad is not None}


def _still_silent(subject: Subject, silent: list[str], named: Mapping[str, Tensor]) -> None:
    """Zero at initialization may be a zero-initialized gate: look once more a little away from it."""
    saved = {name: p.detach().clone() for name, p in named.items()}
    try:
        with torch.no_grad():
            for parameter in named.values():
                parameter.add_(0.05 * torch.randn_like(parameter))
        terms, _ = subject.score(subject.inputs, None, 1, subject.seed + 7, subject.built.vectorize)
        grads = _gradient(terms, named) if terms is not None else {}
    finally:
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(saved[name])
    for name in silent:
        if name in grads and not bool(grads[name].any()):
            where, shown = _place(subject, name)
            subject.warn(
                "zero-gradient",
                f"the gradient of parameter {shown!r} is zero at every datum",
                where,
                "check that what it feeds matters: a dead relu, a round(), or a term that cancels",
                shown,
            )

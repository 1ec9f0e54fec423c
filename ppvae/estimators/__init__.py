"""Estimators by name: one idea a file, the name is the file's."""

from __future__ import annotations

import inspect
import math
import typing
from typing import Any

from ppvae.errors import UsageError, nearest
from ppvae.estimators.analytic_kl import AnalyticKL
from ppvae.estimators.arm import ARM
from ppvae.estimators.base import Claims, Estimator, Needs
from ppvae.estimators.ciwae import CIWAE
from ppvae.estimators.cubo import CUBO
from ppvae.estimators.disarm import DisARM
from ppvae.estimators.dreg import DReG
from ppvae.estimators.elbo import ELBO
from ppvae.estimators.enumeration import Enumeration
from ppvae.estimators.gdreg import GDReG
from ppvae.estimators.gumbel import Gumbel
from ppvae.estimators.iwae import IWAE
from ppvae.estimators.iwae_stl import IWAESTL
from ppvae.estimators.miwae import MIWAE
from ppvae.estimators.mmd import MMD
from ppvae.estimators.nvil import NVIL
from ppvae.estimators.objective import Objective
from ppvae.estimators.piwae import PIWAE
from ppvae.estimators.pyro_bridge import LOSSES, AsPyro, PyroLoss
from ppvae.estimators.rebar import REBAR
from ppvae.estimators.reinforce import Reinforce
from ppvae.estimators.relax import RELAX
from ppvae.estimators.renyi import Renyi
from ppvae.estimators.rws import RWS
from ppvae.estimators.stl import STL
from ppvae.estimators.straight_through import StraightThrough
from ppvae.estimators.tvo import TVO
from ppvae.estimators.vimco import VIMCO
from ppvae.estimators.wake_sleep import WakeSleep
from ppvae.importing import import_place, split_place

ESTIMATORS: dict[str, type[Estimator]] = {
    "elbo": ELBO,
    "analytic_kl": AnalyticKL,
    "iwae": IWAE,
    "reinforce": Reinforce,
    "vimco": VIMCO,
    "gumbel": Gumbel,
    "straight_through": StraightThrough,
    "nvil": NVIL,
    "enumeration": Enumeration,
    "dreg": DReG,
    "disarm": DisARM,
    "arm": ARM,
    "stl": STL,
    "iwae_stl": IWAESTL,
    "rws": RWS,
    "wake_sleep": WakeSleep,
    "miwae": MIWAE,
    "piwae": PIWAE,
    "ciwae": CIWAE,
    "renyi": Renyi,
    "cubo": CUBO,
    "gdreg": GDReG,
    "tvo": TVO,
    "mmd": MMD,
    "rebar": REBAR,
    "relax": RELAX,
}
"""Every estimator of ours by name: the name is its file's."""

OWN = "own:"
"""How a run's record speaks of an estimator that is not ours: it is never imported from there."""

__all__ = [
    "ARM",
    "CIWAE",
    "CUBO",
    "ELBO",
    "ESTIMATORS",
    "IWAE",
    "IWAESTL",
    "MIWAE",
    "MMD",
    "NVIL",
    "PIWAE",
    "REBAR",
    "RELAX",
    "RWS",
    "STL",
    "TVO",
    "VIMCO",
    "AnalyticKL",
    "AsPyro",
    "Claims",
    "DReG",
    "DisARM",
    "Enumeration",
    "Estimator",
    "GDReG",
    "Gumbel",
    "Needs",
    "Objective",
    "PyroLoss",
    "Reinforce",
    "Renyi",
    "StraightThrough",
    "WakeSleep",
    "find",
    "spelled",
]


def find(text: str | Estimator) -> Estimator:
    """The estimator of a text: its name and options, or the place of one's own.

    `"iwae:particles=50"` or `"iwae:k=50"`; `"elbo:beta=4"`; `"elbo:c=enumerate,z=score"`, where c and z are
    latents; `"pyro:RenyiELBO,alpha=0.5"`; `"file.py:Mine"`, `"my_module:Mine:k=5"`.

    Raises:
        UsageError: an unknown name, option or place, with the nearest one.
    """
    if isinstance(text, Estimator):
        return text
    if text.startswith(OWN):
        raise UsageError(
            f"the run was trained with an estimator of its user's own, {text.removeprefix(OWN)}: "
            "give it again with --estimator FILE.py:CLASS"
        )
    place, rest = _place(text)
    if place is not None:
        return _own(text, place, rest)
    name, _, rest = text.partition(":")
    options = [part.strip() for part in rest.split(",") if part.strip()]
    if name == "pyro":
        if options and ":" in options[0]:
            raise UsageError(f"estimator {text!r}: options follow a comma, pyro:{rest.replace(':', ',')}")
        if not options or "=" in options[0]:
            raise UsageError(
                f"estimator {text!r} names no loss: write pyro:NAME with NAME one of {', '.join(LOSSES)}"
            )
        return _made(PyroLoss, text, _options(options[1:], text), name=options[0])
    if name not in ESTIMATORS:
        known = [*ESTIMATORS, *(f"pyro:{loss}" for loss in LOSSES)]
        raise UsageError(
            f"no estimator {name!r}{nearest(name, known) or '.'} There are: {', '.join(known)}; "
            "your own is found as file.py:CLASS or module:CLASS"
        )
    return _made(ESTIMATORS[name], text, _options(options, text))


def spelled(estimator: Estimator) -> str:
    """The text by which an estimator is found again; `own:...` where it is one of the user's own."""
    if isinstance(estimator, PyroLoss):
        options: dict[str, Any] = {"particles": estimator.particles, **estimator.options}
        return ",".join(
            [
                f"pyro:{estimator.name}",
                *(f"{k}={v}" for k, v in options.items() if (k, v) != ("particles", 1)),
            ]
        )
    name = next((name for name, cls in ESTIMATORS.items() if type(estimator) is cls), None)
    if name is None:
        return OWN + (getattr(estimator, "place", None) or type(estimator).__name__)
    defaults = {key: p.default for key, p in inspect.signature(type(estimator)).parameters.items()}
    options = {key: getattr(estimator, key) for key in defaults if key != "sites"}
    options = {key: value for key, value in options.items() if value != defaults[key]} | estimator.sites
    return name + ":" * bool(options) + ",".join(f"{key}={value}" for key, value in options.items())


def _place(text: str) -> tuple[str | None, str]:
    """(place of the user's own estimator or None, its options)."""
    if text.endswith(".py") or ".py:" in text:
        head, _, tail = text.partition(".py")
        attribute, _, rest = tail.removeprefix(":").partition(":")
        return f"{head}.py:{attribute}", rest
    name, _, tail = text.partition(":")
    attribute, _, rest = tail.partition(":")
    is_module = name not in ESTIMATORS and name != "pyro" and attribute.isidentifier()
    return (f"{name}:{attribute}", rest) if is_module else (None, "")


def _own(text: str, place: str, rest: str) -> Estimator:
    source, attribute = split_place(place, "")
    if not attribute:
        raise UsageError(f"estimator {text!r} names no class: write {source}:CLASS")
    module = import_place(source.removesuffix(":"))
    classes = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Estimator)]
    found = getattr(module, attribute, None)
    if not isinstance(found, type) or not issubclass(found, Estimator):
        raise UsageError(
            f"{source} has no estimator {attribute!r}{nearest(attribute, classes) or '.'} "
            f"Its estimators: {', '.join(c for c in classes if c != 'Estimator') or 'none'}"
        )
    made = _made(found, text, _options([part.strip() for part in rest.split(",") if part.strip()], text))
    made.place = text  # type: ignore[assignment]
    return made


def _options(parts: list[str], text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"estimator {text!r}: {part!r} is no option=value, as in iwae:particles=50")
        key = "particles" if key == "k" else key
        if key in options:
            raise UsageError(f"estimator {text!r} gives {key} twice: leave one out")
        options[key] = _value(value)
    return options


def _value(text: str) -> Any:
    """A whole number, a number, true or false, or a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and "." not in text else number


def _made(cls: type[Estimator], text: str, options: dict[str, Any], **given: Any) -> Estimator:
    known = [n for n, p in inspect.signature(cls).parameters.items() if p.kind is not p.VAR_KEYWORD]
    open_ended = cls is PyroLoss
    if "sites" in known:  # an option that is no argument of the class speaks of a latent
        chosen = {k: v for k, v in options.items() if k not in known and isinstance(v, str)}
        if chosen:
            options = {k: v for k, v in options.items() if k not in chosen} | {"sites": chosen}
    _check_kinds(cls, text, options)
    for key in options:
        if key not in known and not open_ended:
            raise UsageError(
                f"estimator {text!r} has no option {key!r}{nearest(key, known) or '.'} "
                f"It has: {', '.join(n for n in known if n != 'sites')}"
            )
    try:
        return cls(**given, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"estimator {text!r}: {error}") from None


KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}


def _check_kinds(cls: type[Estimator], text: str, options: dict[str, Any]) -> None:
    """A word where the class wants a number, or half a particle, would fail much later, or never."""
    try:
        hints = typing.get_type_hints(cls.__init__)
    except NameError:  # one's own class may name types that only type checkers import
        return
    for key, value in options.items():
        hint = hints.get(key)
        kinds = [kind for kind in KINDS if kind is hint or kind in typing.get_args(hint)]
        if kinds and not any(_is_a(value, kind) for kind in kinds):
            raise UsageError(f"estimator {text!r}: {key}={value} is not {KINDS[kinds[0]]}")
        if key == "beta" and kinds and value < 0:
            raise UsageError(f"estimator {text!r}: beta={value} would reward the rate: give 0 or more")


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind

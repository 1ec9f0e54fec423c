"""Estimators by name: one idea a file, the name is the file's."""

from __future__ import annotations

import inspect
from typing import Any

from ppvae.errors import UsageError, nearest
from ppvae.estimators.analytic_kl import AnalyticKL
from ppvae.estimators.base import Estimator, Needs
from ppvae.estimators.elbo import ELBO
from ppvae.estimators.iwae import IWAE
from ppvae.estimators.objective import Objective
from ppvae.estimators.pyro_bridge import LOSSES, AsPyro, PyroLoss

ESTIMATORS: dict[str, type[Estimator]] = {"elbo": ELBO, "analytic_kl": AnalyticKL, "iwae": IWAE}

__all__ = [
    "ELBO",
    "ESTIMATORS",
    "IWAE",
    "AnalyticKL",
    "AsPyro",
    "Estimator",
    "Needs",
    "Objective",
    "PyroLoss",
    "find",
]


def find(text: str | Estimator) -> Estimator:
    """`"iwae:particles=50"`, `"iwae:k=50"`, `"elbo:beta=4"`, `"pyro:RenyiELBO,alpha=0.5"` -> an estimator.

    Raises:
        UsageError: an unknown name or option, with the nearest one.
    """
    if isinstance(text, Estimator):
        return text
    name, _, rest = text.partition(":")
    options = [part.strip() for part in rest.split(",") if part.strip()]
    if name == "pyro":
        if not options or "=" in options[0]:
            raise UsageError(
                f"estimator {text!r} names no loss: write pyro:NAME with NAME one of {', '.join(LOSSES)}"
            )
        return _made(PyroLoss, text, _options(options[1:], text), name=options[0])
    if name not in ESTIMATORS:
        known = [*ESTIMATORS, *(f"pyro:{loss}" for loss in LOSSES)]
        raise UsageError(f"no estimator {name!r}{nearest(name, known) or '.'} There are: {', '.join(known)}")
    return _made(ESTIMATORS[name], text, _options(options, text))


def _options(parts: list[str], text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"estimator {text!r}: {part!r} is no option=value, as in iwae:particles=50")
        try:
            number = float(value)
        except ValueError:
            raise UsageError(f"estimator {text!r}: {value!r} is no number") from None
        options["particles" if key == "k" else key] = (
            int(number) if number.is_integer() and "." not in value else number
        )
    return options


def _made(cls: type[Estimator], text: str, options: dict[str, Any], **given: Any) -> Estimator:
    known = [n for n, p in inspect.signature(cls).parameters.items() if p.kind is not p.VAR_KEYWORD]
    open_ended = cls is PyroLoss
    for key in options:
        if key not in known and not open_ended:
            raise UsageError(
                f"estimator {text!r} has no option {key!r}{nearest(key, known) or '.'} "
                f"It has: {', '.join(known)}"
            )
    try:
        return cls(**given, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"estimator {text!r}: {error}") from None

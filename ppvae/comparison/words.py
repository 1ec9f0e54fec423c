"""The words by which estimators are listed, on the command line and in a schedule."""

from __future__ import annotations

from collections.abc import Iterable

from ppvae.errors import UsageError


def split_estimators(words: str | Iterable[str]) -> tuple[str, ...]:
    """`"elbo,iwae:k=5,beta=1,stl"` -> `("elbo", "iwae:k=5,beta=1", "stl")`; several words are split each.

    A comma separates estimators and options alike. A part that is an option (it has a = and no colon) belongs
    to the estimator before it, and to a pyro:NAME before it, too; any other part begins an estimator.

    Raises:
        UsageError: an option without an estimator, no estimator at all, or one listed twice.
    """
    found: list[str] = []
    for word in [words] if isinstance(words, str) else words:
        begun = False
        for part in (part.strip() for part in word.split(",")):
            if not part:
                continue
            if "=" not in part or ":" in part.partition("=")[0]:
                found.append(part)
                begun = True
            elif begun:
                found[-1] += f"{',' if ':' in found[-1] else ':'}{part}"
            else:
                raise UsageError(
                    f"{part!r} in {word!r} is an option without its estimator: write iwae:{part}"
                )
    if not found:
        raise UsageError("no estimators to compare: list some, such as elbo iwae:k=5")
    for text in found:
        if found.count(text) > 1:
            raise UsageError(f"estimator {text!r} is listed twice: list it once, --seeds repeats it")
    return tuple(found)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """By name, what tables and figures call it: `own/mine.py:Mine` is Mine where no other is so called."""
    names = list(names)
    short = {name: _class_of(name) for name in names}
    called = [*short.values(), *names]
    return {name: s if s == name or called.count(s) == 1 else name for name, s in short.items()}


def _class_of(name: str) -> str:
    file, _, rest = name.partition(".py:")
    return rest if rest and "=" not in file else name

"""The sites of the two programs by name: each latent has one site in each, each parameter one home."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from ppvae.errors import nearest
from ppvae.linter import places
from ppvae.linter.record import Record
from ppvae.linter.subject import Subject


def names(subject: Subject) -> None:
    """Each latent of the model has one site in the guide, and each field is scored."""
    guide, model = subject.guide.sites, subject.model.sites
    for name, site in guide.items():
        if site.observed:
            subject.error(
                "guide-observes",
                f"the guide observes {name!r}: a guide only proposes latents",
                site.place,
                "remove obs= there, or the site",
                name,
            )
    _params(subject)
    only_guide = [
        n for n, s in guide.items() if n not in model and not s.infer.get("is_auxiliary") and not s.observed
    ]
    only_model = [
        n
        for n, s in model.items()
        if not s.observed
        and n not in guide
        and n not in subject.built.enumerated
        and n not in subject.pair.observed
    ]
    told: set[str] = set()
    for name in only_guide:
        near = nearest(name, only_model) or (f", is it {only_model[0]!r}?" if len(only_model) == 1 else "")
        match = next((n for n in only_model if repr(n) in near), None)
        observed = name in subject.pair.observed
        told |= {match} if match else set()
        subject.error(
            "missing-in-model",
            f"guide site {name!r} is not in the model{near}",
            guide[name].place,
            f"rename it to {match!r}, as the model calls it"
            if match
            else f"delete it: {name!r} is observed, not latent"
            if observed
            else "delete it, add it to the model, or mark it infer={'is_auxiliary': True}",
            name,
        )
    for name in only_model:
        if name in told:
            continue
        subject.error(
            "missing-in-guide",
            f"latent {name!r} of the model (line {model[name].place.line}) has no site in the guide and "
            "would be drawn from its prior",
            _end(subject, model[name]),
            f"add pyro.sample({name!r}, ...) to the guide"
            + (f", or Pair(discrete={{{name!r}: 'enumerate'}})" if _discrete(model[name].fn) else ""),
            name,
        )
    for name in subject.pair.discrete:
        if not any(fnmatchcase(site, name) for site in (*guide, *model)):
            latents = [n for n, s in model.items() if not s.observed]
            subject.error(
                "handling",
                f"Pair(discrete=) names {name!r}, which is no site{nearest(name, latents)}",
                places.of_pair(subject.pair, "discrete"),
                f"name a latent of the pair: {', '.join(latents) or 'it has none'}",
                name,
            )
    if subject.pair.bound == "exact" and subject.latents:
        name = next(iter(subject.latents))
        subject.error(
            "bound",
            f"Pair(bound='exact') although {name!r} is sampled: the objective is then only a lower bound",
            places.of_pair(subject.pair, "bound"),
            "write bound='elbo', or sum the latents out",
            name,
        )


def _end(subject: Subject, record: Record) -> Any:
    """A missing site belongs in the guide: its first line; for an AutoGuide, the model's statement."""
    place = places.of_forward(subject.part("guide"))
    return place if place.file and places.is_users(place.file) else record.place


def _discrete(fn: Any) -> bool:
    try:
        return bool(fn.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def _params(subject: Subject) -> None:
    """One name, one parameter: a bare pyro.param of the model and one of the guide are the same parameter."""
    mine = {r.name: r for r in subject.model.of("param") if r.bare}
    for record in subject.guide.of("param"):
        first = mine.get(record.name)
        if not record.bare or first is None:
            continue
        starts = [_initial(r) for r in (first, record)]
        # Without an initial value the guide reads the model's parameter; one object is shared on purpose.
        if any(start is None for start in starts) or starts[0] is starts[1]:
            continue
        # pyro.module names its parameters net$$$weight: one finding for the net.
        module, inside, _ = record.name.partition("$$$")
        what = f"register a module as {module!r}" if inside else f"make a parameter {record.name!r}"
        subject.error(
            "param-collision",
            f"model (line {first.place.line}) and guide both {what}: they would share it, and the second "
            "initial value is ignored",
            record.place,
            f"rename the guide's, such as 'guide_{module}'; "
            + ("or make the net once, in a class" if inside else "to share it, leave out its initial value"),
            module,
        )


def _initial(record: Record) -> Any:
    arguments = record.message["args"]
    return arguments[1] if len(arguments) > 1 else record.message["kwargs"].get("init_tensor")

"""How each latent is handled: reparameterized, by score, or enumerated."""

from __future__ import annotations

from ppvae.linter.record import Record
from ppvae.linter.subject import Subject
from ppvae.linter.supports import family, support_of


def handling(subject: Subject) -> None:
    """How each latent is handled is declared where it is not reparameterized."""
    pair = subject.pair
    for name, q in subject.guide.sites.items():
        how, discrete = pair.handling(name), bool(getattr(support_of(q.fn), "is_discrete", False))
        if q.infer.get("is_auxiliary") or name not in subject.model.sites:
            continue
        if how == "enumerate":
            _enumerable(subject, q)
        elif how == "reparameterized" and not q.fn.has_rsample:
            subject.error(
                "handling",
                f"Pair(discrete=) calls {name!r} reparameterized, but the guide's {family(q.fn)} is not",
                q.place,
                "use 'enumerate' or 'score', or a relaxed distribution in the guide",
                name,
            )
        elif how is None and not q.fn.has_rsample:
            enumerable = bool(getattr(q.fn, "has_enumerate_support", False))
            word = "enumerate" if enumerable else "score"
            subject.error(
                "not-reparameterized",
                f"latent {name!r} is drawn from a {family(q.fn)}, which is not reparameterized, and "
                "Pair(discrete=) does not say how it is handled",
                q.place,
                f"write Pair(discrete={{{name!r}: {word!r}}})"
                + (", or 'score'" if enumerable else "")
                + (
                    ""
                    if discrete
                    else ", or use a reparameterized distribution, such as Normal, in the guide"
                ),
                name,
            )
    for name in subject.built.enumerated:
        if name in subject.model.sites and name not in subject.guide.sites:
            _enumerable(subject, subject.model.sites[name])


def _enumerable(subject: Subject, site: Record) -> None:
    if not getattr(site.fn, "has_enumerate_support", False):
        subject.error(
            "enumerate",
            f"Pair(discrete=) enumerates {site.name!r}, but a {family(site.fn)} has no finite list of values",
            site.place,
            f"take {site.name!r} out of Pair(discrete=)"
            + ("" if site.fn.has_rsample else ", or handle it by 'score'"),
            site.name,
        )

"""Per-site choice: how each latent is drawn and differentiated, under any estimator.

reparameterized   through its draw, as its distribution allows
score             by the score function; a differentiable draw is detached
enumerate         summed out exactly
gumbel            by a relaxed draw at a temperature, the knob of that name: no bound, gradients biased
straight_through  by a discrete draw with the gradient of the relaxed one: the guide's is biased
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ppvae.drawing import Draw, Drawn
from ppvae.errors import PairError, UsageError, nearest
from ppvae.estimators.relaxations import relaxed_draw
from ppvae.terms import Terms
from ppvae.wrapped import innermost, support_ends

CHOICES = ("reparameterized", "score", "enumerate", "gumbel", "straight_through")
TEMPERATURE = 1.0


def checked(sites: Mapping[str, str] | None) -> dict[str, str]:
    """The choices by site.

    Raises:
        UsageError: an unknown word.
    """
    for name, how in (sites or {}).items():
        if how not in CHOICES:
            close = nearest(how, CHOICES) or "."
            raise UsageError(f"site {name!r} cannot be handled by {how!r}{close} Use: {', '.join(CHOICES)}")
    return dict(sites or {})


def enumerated(sites: Mapping[str, str], declared: Iterable[str]) -> tuple[str, ...]:
    """What is summed out: what the pair declares, unless a site is handled otherwise, and what is chosen."""
    kept = [name for name in declared if sites.get(name, "enumerate") == "enumerate"]
    return tuple(dict.fromkeys([*kept, *(name for name, how in sites.items() if how == "enumerate")]))


def drawing(sites: Mapping[str, str], temperature: Tensor | float) -> Draw | None:
    """The draws that the choices ask for; None where every latent draws by itself."""
    if not any(how != "enumerate" for how in sites.values()):
        return None

    def draw(name: str, q: Any) -> Drawn | None:
        how = sites.get(name)
        if how == "score":
            if q.has_rsample and any(getattr(end, "requires_grad", False) for end in support_ends(q)):
                raise PairError(
                    f"latent {name!r} is drawn from a {type(innermost(q)).__name__} whose support moves with "
                    f"the guide, of which the score function knows nothing: leave out {name}=score"
                )
            return Drawn(q().detach(), "score")
        if how in ("gumbel", "straight_through"):
            return relaxed_draw(q, name, temperature, hard=how == "straight_through")
        if how == "reparameterized" and not q.has_rsample:
            raise PairError(
                f"latent {name!r} is drawn from a {type(innermost(q)).__name__}, which is not "
                f"reparameterized: use {name}=score, enumerate or gumbel"
            )
        return None

    return draw


def refuse_unknown(sites: Mapping[str, str], terms: Terms) -> None:
    """Raise PairError for a choice about a latent that is not there."""
    latents = [s.name for s in terms.sites.values() if s.kind != "observed"]
    for name in sites:
        if name not in latents:
            raise PairError(
                f"the pair has no latent {name!r}{nearest(name, latents) or '.'} It has: {', '.join(latents)}"
            )

"""Run the guide, replay the model under it, and keep what happened: two traces and the penalties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from ppvae.drawing import Draw, Drawing
from ppvae.errors import PairError
from ppvae.terms import Penalty

DATA_PLATE = "data"
PARTICLE_PLATE = "_ppvae_particles"


def run(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: Mapping[str, Any],
    particles: int,
    plates: int,
    enumerated: tuple[str, ...],
    draw: Draw | None = None,
    leaves: bool = False,
) -> tuple[Any, Any, dict[str, Penalty]]:
    """Trace the guide and replay the model under it: (guide trace, model trace, penalties).

    `draw` and `leaves` are those of `ppvae.drawing`.
    """
    remaining = set(enumerated)
    with _CollectPenalties() as collected:
        if enumerated:
            # One dimension is always left free for the particles; enumeration lies further left.
            guide = poutine.infer_config(guide, lambda site: _parallel(site, remaining))
            model = poutine.infer_config(model, lambda site: _parallel(site, remaining))
        if particles > 1:
            guide, model = _in_particles(guide, particles, plates), _in_particles(model, particles, plates)
        if draw is not None or leaves:
            guide = Drawing(draw, leaves)(guide)  # outside the plates, which give q its full batch shape
        if enumerated:
            guide = EnumMessenger(first_available_dim=-2 - plates)(guide)
            model = EnumMessenger()(model)  # goes on where the guide's enumeration ended
        guide_trace = poutine.trace(guide).get_trace(**batch)
        _check_proposals(guide_trace)
        remaining -= set(guide_trace.nodes)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**batch)
    return guide_trace, model_trace, collected.found


def _check_proposals(guide_trace) -> None:
    """Before the replay, which would stop at such a site with a message of Pyro's."""
    for name, site in sample_sites(guide_trace).items():
        if site["is_observed"] and not is_factor(site):
            raise PairError(
                f"guide site {name!r} is observed: remove obs= there, a guide only proposes latents"
            )
        if is_factor(site) and "has_rsample" not in site["fn"].__dict__:
            raise PairError(
                f"guide factor {name!r} does not say whether it is differentiated through draws: "
                "write pyro.factor(..., has_rsample=True), or False"
            )


def _parallel(site, names: set[str]) -> Any:
    if site["name"] not in names or site["is_observed"]:
        return {}
    q = site["fn"]
    if getattr(q, "reinterpreted_batch_ndims", 0):
        raise PairError(
            f"latent {site['name']!r} has joint states under to_event, which Pyro does not list: use the "
            "estimator enumeration, or a plate instead of to_event"
        )
    if not q.has_enumerate_support:
        raise PairError(
            f"latent {site['name']!r} is drawn from a {type(q).__name__}, whose states cannot be listed: "
            "draw it instead"
        )
    return {"enumerate": "parallel"}


def _in_particles(fn, particles: int, plates: int):
    def wrapped(**batch):
        with pyro.plate(PARTICLE_PLATE, particles, dim=-1 - plates):
            return fn(**batch)

    return wrapped


class _CollectPenalties(Messenger):
    def __init__(self):
        super().__init__()
        self.found: dict[str, Penalty] = {}

    def _pyro_post_penalty(self, msg) -> None:
        value, group = msg["args"]
        if msg["name"] in self.found:
            raise PairError(f"two penalties are called {msg['name']!r}: give each a name of its own")
        self.found[msg["name"]] = Penalty(value.mean(), group)


def sample_sites(trace) -> dict[str, dict]:
    """The sample statements of a trace that carry probability: no subsampling, no deterministic sites."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic", False)
    }


def is_factor(site: dict) -> bool:
    return type(site["fn"]).__name__ == "Unit"

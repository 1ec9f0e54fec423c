"""The ELBO with its discrete latents summed out exactly: every joint state is a particle."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ppvae.drawing import Drawn
from ppvae.errors import PairError
from ppvae.estimators import sites as per_site
from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, Scorer, knob
from ppvae.estimators.functionals import mean
from ppvae.estimators.layout import Laid, Layout, refuse_one_by_one
from ppvae.estimators.objective import Objective
from ppvae.estimators.states import count_states
from ppvae.looking import looking
from ppvae.shapes import Float
from ppvae.terms import Site, Terms
from ppvae.wrapped import unmasked


class Enumeration(Estimator):
    """L(x) = sum_s q(s | x) E[log p(x, s, z) - log q(s, z | x)], s all discrete latents of the guide jointly.

    Lower bound; exact in s, value and gradient: without any variance where all latents are discrete. S joint
    states make S particles, each scored once, in one pass. A discrete latent may depend on others; S is the
    product of the states of all. Bernoulli, Categorical and OneHotCategorical are enumerated, under
    `to_event` with all states of the joint value (6 bits have 64). All else must be reparameterized: it is
    drawn K = `particles` times, and states that agree in what was drawn before share the draw, so that their
    q(s | x, z) add up to one. Where nothing is drawn, K is 1.

    Refused: more than `limit` states; discrete latents of other kinds, in inner plates or outside the data
    plate; guides with dropout beside latents that are drawn, whose states would not share one q.

    Where all latents are discrete and both model and guide have them, the metric `log_evidence` is
    log sum_s p(x, s), exactly, in nats per datum.

    Knob: `beta` weighs the rate in what is optimized, as in `elbo`; the reported bound has beta = 1.

    Not to be confused with `elbo:c=enumerate`, Pyro's enumeration: a dimension of its own for each latent,
    cheaper where the terms of several latents separate, but no joint states under `to_event`.
    """

    claims = Claims(bound="lower")

    def __init__(
        self,
        particles: int = 1,
        limit: int = 4096,
        beta: float = 1.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, sites)
        for name, how in self.sites.items():
            if how == "score":
                raise ValueError(f"{name}=score does not go with enumeration: use elbo or nvil for it")
        if limit < 1:
            raise ValueError(f"limit={limit}: a datum has one joint state or more")
        self.limit, self.beta = limit, beta
        self._layouts: weakref.WeakKeyDictionary[Any, Layout] = weakref.WeakKeyDictionary()

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), mean)

    def score(self, scorer: Scorer, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        """Lay the states out as for the batch before; look first where the guide has other latents now."""
        known = self._layouts.get(scorer)
        terms = None if known is None else self._laid_out(known, scorer, batch, knobs)
        if known is None or terms is None or not known.fits(terms):
            self._layouts[scorer] = known = self._look(scorer, batch, knobs)
            terms = self._laid_out(known, scorer, batch, knobs)
        _refuse_places(terms)
        return terms

    def _look(self, scorer: Scorer, batch: Mapping[str, Any], knobs: Knobs) -> Layout:
        """The latents of the guide, found by drawing each once."""
        seen: dict[str, Any] = {}

        def watch(name: str, q: Any) -> Drawn | None:
            seen[name] = q
            return None

        # The model may refuse, for a latent that it sums out itself: the guide was seen all the same.
        with looking(scorer), contextlib.suppress(PairError):
            scorer.score(batch, 1, enumerated=(), draw=watch)
        discrete = {name: q for name, q in seen.items() if self._is_laid_out(name, q)}
        states = {name: count_states(q, name) for name, q in discrete.items()}
        total = math.prod(states.values())
        if total > self.limit:
            written = str(total) if total < 1e9 else f"about 10^{round(math.log10(total))}"
            raise PairError(
                f"enumeration has {written} joint states of {', '.join(states)}, more than "
                f"limit={self.limit}: use vimco, reinforce or gumbel, or raise the limit"
            )
        drawn = len(discrete) < len(seen)
        if drawn and total > 1 and _drops_out(getattr(scorer, "guide", None)):
            raise PairError(
                "enumeration wants one q for states that agree so far, but the guide has dropout: take it "
                "out, or use elbo with the score function"
            )
        return Layout(states, self.particles if drawn else 1, tuple(seen))

    def _is_laid_out(self, name: str, q: Any) -> bool:
        return self.sites.get(name) == "enumerate" or (name not in self.sites and not q.has_rsample)

    def _laid_out(self, layout: Layout, scorer: Scorer, batch: Mapping[str, Any], knobs: Knobs) -> Terms:
        # What the model alone has is left to Pyro; what the guide has is laid out here.
        declared = per_site.enumerated(self.sites, scorer.enumerated)
        in_model = tuple(name for name in declared if name not in layout.guide)
        draw = layout.draw(self.drawing(knobs))
        return scorer.score(batch, layout.particles, enumerated=in_model, draw=draw)

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        sites = [site for site in terms.sites.values() if isinstance(site.noise, Laid)]
        weight = probability(sites, terms)
        log_likelihood = _under(weight, terms.log_likelihood)
        log_ratio = _under(weight, terms.log_ratio)
        # Outside the data plate nothing is laid out: a plain mean over the draws.
        outside = terms.log_shared.mean() / terms.num_data
        global_ratio = (terms.log_global - terms.log_shared).mean() / terms.num_data
        loss = -(log_likelihood + beta * log_ratio).mean() - outside - beta * global_ratio
        bound = (log_likelihood + log_ratio + outside + global_ratio).detach()
        found = {"elbo": bound.mean(), "rate": -log_ratio.detach().mean()}
        found["distortion"] = -log_likelihood.detach().mean()
        return Objective(bound, {"all": loss}, found | _evidence(sites, terms))


def probability(sites: list[Site], terms: Terms) -> Float[Tensor, "K B"]:
    """q(s | x) of each particle's states over the number of draws, so that all add up to one.

    Masks are taken off: a masked latent has states and their probabilities all the same, and no terms.
    """
    if not sites:
        return terms.like.new_full((terms.particles, terms.rows), 1 / terms.particles)
    log_q = sum(_raw(site.q, site, terms) for site in sites)
    return torch.as_tensor(log_q).exp() / (terms.particles // sites[0].noise.total)


def _raw(distribution: Any, site: Site, terms: Terms) -> Tensor:
    """log-probability (K, B) of the states, mask or no mask."""
    log_prob = unmasked(distribution).log_prob(site.value)
    return log_prob.expand(site.q.batch_shape).reshape(terms.particles, terms.rows)


def _under(weight: Tensor, x: Tensor) -> Float[Tensor, " B"]:
    """sum_s q(s) x(s), where a state that q excludes is silent."""
    return (weight * torch.where(weight == 0, torch.zeros_like(x), x)).sum(0)


def _evidence(sites: list[Site], terms: Terms) -> dict[str, Tensor]:
    """log sum_s p(x, s), where the states are all that there is."""
    latents = [s for s in terms.sites.values() if s.kind != "observed"]
    whole = all(isinstance(s.noise, Laid) for s in latents)
    if not sites or not whole or any(s.p is None for s in sites) or terms.has_global or terms.scaled:
        return {}
    with torch.no_grad():
        joint = terms.log_weight - sum(site.log_ratio for site in sites)
        joint = joint + sum(_raw(site.p, site, terms) for site in sites)
        return {"log_evidence": joint.logsumexp(0).mean()}


def _refuse_places(terms: Terms) -> None:
    laid_out = any(isinstance(site.noise, Laid) for site in terms.sites.values())
    if laid_out and (shared := [s for s in terms.of("observed") if s.log_p.dim() == 1]):
        raise PairError(
            f"site {shared[0].name!r} is observed outside the data plate, where it may read the states of "
            "all data at once: use elbo or reinforce"
        )
    for site in terms.sites.values():
        if isinstance(site.noise, list) and any(isinstance(noise, Laid) for noise in site.noise):
            refuse_one_by_one()
        if not isinstance(site.noise, Laid):
            continue
        if site.kind == "global":
            raise PairError(
                f"latent {site.name!r} lies outside the data plate, where a state is one for all data: use "
                "elbo or reinforce"
            )
        shape = site.q.batch_shape[1:] if terms.particles > 1 else site.q.batch_shape
        if math.prod(shape) != terms.rows:
            raise PairError(
                f"latent {site.name!r} lies in an inner plate: use .to_event() instead of the plate, or elbo "
                f"with {site.name}=enumerate"
            )


def _drops_out(guide: Any) -> bool:
    owner = getattr(guide, "__self__", guide)  # of a method: its module
    modules = owner.modules() if isinstance(owner, nn.Module) else ()
    return any(isinstance(m, _DropoutNd) and m.training and m.p > 0 for m in modules)

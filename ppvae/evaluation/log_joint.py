"""log p(x, z) as a function of real numbers: what a sampler or an optimizer over latents needs.

All continuous local latents of a datum are laid side by side in one vector u of D real numbers, each site
mapped from its support by the inverse of `biject_to(support)`, so that

    log p(x, u) = log p(x, z(u)) + log |det dz/du|,

with what the model enumerates summed out. Chains (K) and data (B) are independent rows: the gradient of the
sum over all of them is the gradient of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ppvae.built import Built
from ppvae.drawing import Drawn
from ppvae.errors import PairError, UsageError
from ppvae.estimators.base import weights_obstacle
from ppvae.evaluation.hmc import Point
from ppvae.scoring import score
from ppvae.shapes import Float
from ppvae.terms import Site, Terms
from ppvae.tracing import PARTICLE_PLATE, is_factor, sample_sites
from ppvae.wrapped import innermost

Start = Literal["guide", "prior"]


class LogJoint:
    """log p(x, u) and, beside it, a density that u can be drawn from, q(u | x) or p(u): each (K, B), in nats.

    Use it inside `evaluating(built, seed)`. A pair whose nets take no leading dimensions
    (`Pair(vectorize=False)`, a BatchNorm) has its batch repeated K times in place of a plate of particles.

    Args:
        batch: fields of B data.
        chains: K.
        start: which density stands beside log p(x, u). With `prior` the guide is never run: any one will do.

    Raises:
        PairError: a latent is discrete, global, circular, a point or without bounds that are known; log q
            cannot be had at a given value; the pair's objective is no bound; a module is in training mode.
    """

    def __init__(self, built: Built, batch: Mapping[str, Tensor], chains: int, start: Start = "guide"):
        if start not in ("guide", "prior"):
            raise UsageError(f"start={start!r}: chains start at 'guide' or 'prior'")
        if chains < 1:
            raise UsageError(f"chains={chains}: use at least 1")
        _refuse_pair(built)
        self.built, self.start = built, start
        self.batch = built.inputs(batch)
        joint = not self.batch
        rows = 1 if joint else len(next(iter(self.batch.values())))
        repeats = 1 if built.vectorize else chains
        if joint and repeats > 1:
            raise PairError("a model without data runs its chains side by side: set Pair(vectorize=True)")
        if repeats > 1:
            self.batch = {n: v.repeat(repeats, *(1,) * (v.dim() - 1)) for n, v in self.batch.items()}
        self.shape = (chains, rows)
        self._run_shape = (chains // repeats, rows * repeats)  # of one pass: particles by rows
        values = self._drawn()
        terms = self._terms(values)
        _refuse_terms(terms, values)
        self._sums_out = any(site.how == "enumerate" for site in terms.sites.values())
        self._latents = tuple(
            _Latent.of(terms.sites[name], value, 1 + built.pair.plates, joint)
            for name, value in values.items()
        )

    @property
    def size(self) -> int:
        """D, how many real coordinates a datum has."""
        return sum(latent.size for latent in self._latents)

    @property
    def names(self) -> tuple[str, ...]:
        """The latents in the order of their coordinates."""
        return tuple(latent.name for latent in self._latents)

    def draw(self) -> Float[Tensor, "K B D"]:
        """Independent draws of q(u | x), or of p(u)."""
        return self._flat(self._drawn())

    def unconstrained(self, values: Mapping[str, Tensor]) -> Float[Tensor, "K B D"]:
        """u of latents by name, each of shape (K, plates..., B) + event, or without K, which all chains
        share."""
        return self._flat(
            {latent.name: latent.placed(values[latent.name], *self.shape) for latent in self._latents}
        )

    def log_joint(self, u: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        """log p(x, u). The guide is not run."""
        values, volume = self._constrained(u)
        return (_log_joint(self._model_terms(values)) + volume).reshape(self.shape)

    def log_densities(self, u: Float[Tensor, "K B D"]) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B"]]:
        """(log q(u | x), log p(x, u)), or (log p(u), log p(x, u)): what is between them is the log-weight of
        u, or its log-likelihood."""
        values, volume = self._constrained(u)
        terms = self._terms(values)
        if self.start == "guide":
            parts = [s.log_q for s in terms.sites.values() if s.log_q is not None and s.how != "enumerate"]
        elif self._sums_out:
            # log sum_c p(c, z) is no term of log sum_c p(x, c, z): it is summed again with the data silent.
            parts = [_log_joint(self._model_terms(values, silent=True))]
        else:
            parts = [terms.sites[name].log_p for name in self.names]
        first = sum(parts, volume)
        return first.reshape(self.shape), (_log_joint(terms) + volume).reshape(self.shape)

    def point(self, u: Float[Tensor, "K B D"]) -> Point:
        """Both log-densities and their gradients in u: (2, K, B) and (2, K, B, D), cut off any graph."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            flat = 0.0 * u.sum(-1)  # a density that is constant has a gradient too
            both = [density + flat for density in self.log_densities(u)]
            gradients = [torch.autograd.grad(d.sum(), u, retain_graph=True)[0] for d in both]
        return Point(u.detach(), torch.stack(both).detach(), torch.stack(gradients))

    def _flat(self, values: Mapping[str, Tensor]) -> Tensor:
        u = torch.cat([latent.flat(values[latent.name]) for latent in self._latents], -1)
        return u.reshape(*self.shape, -1)

    def _constrained(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Latents by name, as the pair draws them, and log |det dz/du|, both in the shapes of one pass."""
        parts = u.reshape(*self._run_shape, -1).split([latent.size for latent in self._latents], -1)
        values, volume = {}, u.new_zeros(self._run_shape)
        for latent, part in zip(self._latents, parts, strict=True):
            values[latent.name], log_det = latent.value(part)
            volume = volume + log_det
        return values, volume

    def _drawn(self) -> dict[str, Tensor]:
        """Latents by name, of the guide or of the model without its data."""
        run = self.built.run_guide if self.start == "guide" else poutine.uncondition(self.built.run_model)

        def in_particles(**inputs: Any) -> None:
            with pyro.plate(PARTICLE_PLATE, self._run_shape[0], dim=-1 - self.built.pair.plates):
                run(**inputs)

        chosen = in_particles if self._run_shape[0] > 1 else run
        try:
            with self.built.local(), torch.no_grad():
                sites = sample_sites(poutine.trace(chosen).get_trace(**self.batch))
        except NotImplementedError as error:
            raise PairError(
                f"the {self.start} has a latent of which nothing can be drawn (an improper density?): "
                f"use start={'prior' if self.start == 'guide' else 'guide'!r}"
            ) from error
        given = [n for n, s in sites.items() if s["infer"].get("was_observed") or is_factor(s)]
        # One order of coordinates, whoever draws. Copies, since a flow may know its own draws by identity.
        names = sorted(sites.keys() - {*given, *self.built.enumerated})
        return {name: sites[name]["value"].clone() for name in names}

    def _terms(self, values: Mapping[str, Tensor]) -> Terms:
        """The terms of log p(x, z), and of log q(z | x) where the chains start at the guide."""
        if self.start == "prior":
            return self._model_terms(values)

        def draw(name: str, q: Any) -> Drawn | None:
            return Drawn(values[name], "reparameterized") if name in values else None

        try:
            return self.built.score(self.batch, self._run_shape[0], draw=draw)
        except (NotImplementedError, KeyError) as error:  # a flow that knows only what it drew itself
            raise PairError(
                "log q(z | x) cannot be had at a value that the guide did not draw, as annealing needs: "
                "use start='prior', or a guide whose flow can be inverted"
            ) from error

    def _model_terms(self, values: Mapping[str, Tensor], silent: bool = False) -> Terms:
        """The terms of log p(x, z) at given latents, which stand as observed; `silent` takes the data out."""
        model = poutine.condition(self.built.run_model, data=dict(values))
        with self.built.local():
            return score(
                _Silenced(tuple(values))(model) if silent else model,
                _proposes_nothing,
                self.batch,
                particles=self._run_shape[0],
                plates=self.built.pair.plates,
                num_data=self.built.num_data,
                enumerated=self.built.enumerated,
            )


@dataclass(frozen=True)
class _Latent:
    """One site: how its values lie among the coordinates of a datum."""

    name: str
    transform: Any
    """From real numbers to the support."""
    batch: tuple[int, ...]
    """Batch shape of the value, as the pair has it."""
    lead: tuple[int, ...]
    """The same with no dimension left out: (particles, plates..., rows)."""
    event: tuple[int, ...]
    """Event shape of the real numbers."""
    event_dim: int
    """Event dimensions of the value."""

    @classmethod
    def of(cls, site: Site, value: Tensor, dims: int, joint: bool) -> _Latent:
        event_dim = len(site.p.event_shape)
        batch = tuple(value.shape[: value.dim() - event_dim])
        lead = (1,) * (dims - len(batch)) + batch
        transform = _transform(site)
        event = tuple(transform.inverse_shape(value.shape)[len(batch) :])
        return cls(site.name, transform, batch, (*lead, 1) if joint else lead, event, event_dim)

    @property
    def size(self) -> int:
        return math.prod(self.lead[1:-1]) * math.prod(self.event)

    def placed(self, value: Tensor, chains: int, rows: int) -> Tensor:
        """A value of shape (chains, plates..., rows) + event, or without chains, as one pass of the pair has
        it."""
        inner, event = self.lead[1:-1], value.shape[value.dim() - self.event_dim :]
        value = value.reshape(-1, *inner, rows, *event).expand(chains, *inner, rows, *event)
        if self.lead[0] != chains:  # chains lie among the rows
            value = value.movedim(0, len(inner))
        return value.reshape(self.batch + event)

    def flat(self, value: Tensor) -> Tensor:
        """(particles, rows, size) of a value."""
        u = self.transform.inv(value).reshape(self.lead + self.event)
        return u.movedim(len(self.lead) - 1, 1).reshape(self.lead[0], self.lead[-1], -1)

    def value(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The value in its own shape, and log |det dz/du|, (particles, rows)."""
        u = flat.reshape(self.lead[0], self.lead[-1], *self.lead[1:-1], *self.event)
        u = u.movedim(1, len(self.lead) - 1).reshape(self.batch + self.event)
        value = self.transform(u)
        log_det = self.transform.log_abs_det_jacobian(u, value)
        log_det = log_det.reshape(*self.lead, -1).sum(-1)
        return value, log_det.sum(tuple(range(1, len(self.lead) - 1))) if len(self.lead) > 2 else log_det


class _Silenced(Messenger):
    """What is observed has log-probability zero; the latents named are left alone."""

    def __init__(self, latents: tuple[str, ...]):
        super().__init__()
        self.latents = latents

    def _pyro_sample(self, msg) -> None:
        if msg["is_observed"] and msg["name"] not in self.latents:
            msg["mask"] = False


def _proposes_nothing(**inputs: Any) -> None:
    """The guide of a model whose latents are all given."""


def _log_joint(terms: Terms) -> Tensor:
    """log p(x, z), (particles, rows): of a site that was summed out, log p - log r is its share."""
    parts = [s.log_ratio if s.how == "enumerate" else s.log_p for s in terms.sites.values()]
    return sum(parts, terms.like.new_zeros(terms.particles, terms.rows))


def _refuse_pair(built: Built) -> None:
    if built.pair.bound == "none":
        raise PairError(
            "the pair's objective is no bound on log p(x) (Pair(bound='none')): it has no p(x, z) to sample"
        )
    if any(m.training for m in built.modules() if isinstance(m, _BatchNorm | _DropoutNd)):
        raise PairError(
            "a BatchNorm or Dropout is in training mode, where data are no independent rows: "
            "use `with evaluating(built, seed):`"
        )


def _refuse_terms(terms: Terms, values: Mapping[str, Tensor]) -> None:
    if obstacle := weights_obstacle(terms):
        raise PairError(
            f"a Markov chain {obstacle}, or use start='prior'"
            if terms.expected
            else f"a Markov chain {obstacle}"
        )
    if not values:
        raise PairError("the pair has no continuous latent: log p(x) needs no chain, use log_likelihood")
    for name in values:
        site = terms.sites[name]
        if site.p is None:
            raise PairError(
                f"latent {name!r} is in the guide alone, so that q(z | x) is an integral over it: "
                "use start='prior'"
            )
        kinds = {"p": _family(site.p), "q": _family(site.q)}
        if _is_discrete(site.p):
            raise PairError(
                f"latent {name!r} is discrete and drawn, but chains move through real numbers: "
                f"sum it out by Pair(discrete={{{name!r}: 'enumerate'}}), or use log_likelihood"
            )
        if "Delta" in kinds.values():
            raise PairError(
                f"latent {name!r} is a point, a Delta, and has no density: use start='prior'"
                if kinds["p"] != "Delta"
                else f"latent {name!r} is a Delta in the model: write pyro.deterministic instead"
            )
        if kinds["p"] == "VonMises":
            raise PairError(f"latent {name!r} is an angle, and chains move along a line: use log_likelihood")


def _family(fn: Any) -> str:
    """The name of a distribution under what wraps it."""
    return type(innermost(fn)).__name__


def _is_discrete(fn: Any) -> bool:
    try:
        return bool(fn.has_enumerate_support or fn.support.is_discrete)
    except NotImplementedError:
        return False


def _transform(site: Site) -> Any:
    """From the real numbers to the support of p."""
    try:
        support = site.p.support
        transform = biject_to(support)
    except NotImplementedError as error:
        raise PairError(
            f"latent {site.name!r} is drawn from a {_family(site.p)}, to whose support no map leads from the "
            "real numbers: use log_likelihood"
        ) from error
    base = getattr(support, "base_constraint", support)
    for bound in (getattr(base, name, None) for name in ("lower_bound", "upper_bound")):
        # Bounds that follow another latent would move along a chain.
        if isinstance(bound, Tensor) and bound.numel() > 1 and bool((bound != bound.flatten()[0]).any()):
            raise PairError(
                f"latent {site.name!r} has bounds that are not the same throughout: "
                "draw it from fixed bounds and scale it by a deterministic statement"
            )
    return transform

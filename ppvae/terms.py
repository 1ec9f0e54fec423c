"""Run the guide, replay the model: the additive terms of log p(x, z) - log q(z | x), site by site.

    log w[k, b] = sum_observed log p(x_b | z_kb) + sum_latent (log p(z_kb) - log q(z_kb | x_b))

Everything an estimator, a rate, or a picture needs is read off one object, `Terms`. Scoring never asks the
device for a number, so that a step has no host synchronization. Shapes are K (particles) by B (data).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from ppvae.contraction import Factor, contract, expected
from ppvae.errors import PairError
from ppvae.shapes import Float

Kind = Literal["observed", "local", "global", "bound"]
How = Literal["reparameterized", "score", "enumerate"]

DATA_PLATE = "data"
PARTICLE_PLATE = "particles"


@dataclass
class Site:
    """One sample statement, scored. Global sites have `log_p`, `log_q` of shape (K,), others (K, B)."""

    name: str
    kind: Kind
    value: Tensor
    p: Any
    """The model's distribution; None for a latent that only the guide has (auxiliary)."""
    q: Any
    """The guide's distribution; None where nothing is inferred."""
    log_p: Tensor
    log_q: Tensor | None
    how: How = "reparameterized"
    analytic_kl: Callable[[], Tensor | None] = lambda: None
    """KL(q, p) of this site in closed form, (K, B) or (K,), given its parents; None where none is known."""

    @property
    def log_ratio(self) -> Tensor:
        """log p - log q of this site."""
        return self.log_p if self.log_q is None else self.log_p - self.log_q


@dataclass
class Penalty:
    """A term outside the bound, in nats per datum, for the losses of one optimizer group (None: all)."""

    value: Tensor
    group: str | None


@dataclass
class Terms:
    """The additive terms of log p - log q for one batch."""

    sites: dict[str, Site]
    penalties: dict[str, Penalty]
    particles: int
    rows: int
    num_data: int
    """N: global terms are divided by it, once."""
    like: Tensor
    """An empty tensor of the result's dtype and device."""
    scaled: tuple[str, ...] = ()
    """Sites that carry a scale which the user wrote (a subsampled data plate is not one)."""
    expected: tuple[str, ...] = ()
    """Guide sites summed out exactly: their weights are expectations, not samples."""
    order_p: tuple[str, ...] = ()
    order_q: tuple[str, ...] = ()
    joint: bool = False
    """True for a model without data: the one row is the whole model."""
    extra: dict[str, Any] = field(default_factory=dict)

    def of(self, *kinds: Kind) -> list[Site]:
        return [site for site in self.sites.values() if site.kind in kinds]

    def _total(self, parts: list[Tensor], *shape: int) -> Tensor:
        total = self.like.new_zeros(shape)
        for part in parts:
            total = total + part
        return total

    @property
    def log_likelihood(self) -> Float[Tensor, "K B"]:
        """sum over observed sites of log p(x | z)."""
        return self._total(
            [s.log_p for s in self.of("observed") if s.log_p.dim() == 2], self.particles, self.rows
        )

    @property
    def log_ratio(self) -> Float[Tensor, "K B"]:
        """sum over local latents of log p(z) - log q(z | x)."""
        return self._total([s.log_ratio for s in self.of("local", "bound")], self.particles, self.rows)

    @property
    def log_weight(self) -> Float[Tensor, "K B"]:
        """log w of the local part, in nats per datum; enumerated sites are summed out."""
        return self.log_likelihood + self.log_ratio

    @property
    def log_global(self) -> Float[Tensor, " K"]:
        """log p - log q of all that lies outside the data plate, in nats for the whole data set."""
        outside = [s.log_ratio for s in self.of("global")]
        outside += [s.log_p for s in self.of("observed") if s.log_p.dim() == 1]
        return self._total(outside, self.particles)

    @property
    def has_global(self) -> bool:
        return any(site.log_p.dim() == 1 for site in self.sites.values())


def score(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: Mapping[str, Any],
    *,
    particles: int = 1,
    plates: int = 1,
    num_data: int | None = None,
    enumerated: tuple[str, ...] = (),
    vectorize: bool = True,
) -> Terms:
    """Score `particles` draws of the guide for each datum.

    Args:
        batch: the keyword arguments of model and guide.
        plates: plate dimensions of the pair, the data plate included.
        num_data: N; read off a subsampled data plate where there is one, otherwise the rows of the batch.
        enumerated: discrete latents that are summed out, in the guide or in the model alone.
        vectorize: all particles at once in an outer plate; otherwise one after another.

    Raises:
        PairError: a site is missing, lies in the wrong plate or has a shape that would broadcast silently.
    """
    if particles > 1 and not vectorize:
        options = {"plates": plates, "num_data": num_data, "enumerated": enumerated}
        return _stack([score(model, guide, batch, **options) for _ in range(particles)])
    guide_trace, model_trace, penalties = _run(model, guide, batch, particles, plates, enumerated)
    return _Scoring(guide_trace, model_trace, particles, plates, num_data).terms(penalties, joint=not batch)


def _run(model, guide, batch, particles, plates, enumerated):
    """Trace the guide and replay the model under it: (guide trace, model trace, penalties)."""
    remaining = set(enumerated)
    with _CollectPenalties() as collected:
        if enumerated:
            # One dimension is always left free for the particles; enumeration lies further left.
            guide = poutine.infer_config(guide, lambda site: _parallel(site, remaining))
            model = poutine.infer_config(model, lambda site: _parallel(site, remaining))
        if particles > 1:
            guide, model = _in_particles(guide, particles, plates), _in_particles(model, particles, plates)
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


def _parallel(site, names: set[str]) -> Any:
    return {"enumerate": "parallel"} if site["name"] in names else {}


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


class _Scoring:
    """Turns a guide trace and a replayed model trace into Terms."""

    def __init__(self, guide_trace, model_trace, particles: int, plates: int, num_data: int | None):
        self.q_sites, self.p_sites = sample_sites(guide_trace), sample_sites(model_trace)
        self.particles, self.plates = particles, plates
        frames = [
            f for site in self.p_sites.values() for f in site["cond_indep_stack"] if f.name == DATA_PLATE
        ]
        self.frame = frames[0] if frames else None
        self.rows = self.frame.size if self.frame else 1
        subsampled = self.frame is not None and self.frame.full_size not in (None, self.frame.size)
        full = self.frame.full_size if self.frame is not None and subsampled else None
        self.num_data = int(full or num_data or self.rows)
        self.scaled: list[str] = []

    def terms(self, penalties: dict[str, Penalty], joint: bool) -> Terms:
        self._check_sites(joint)
        # A pair that closes over its data takes no arguments either, but has a data plate.
        self.joint = joint = joint and self.frame is None
        p_factors = {name: self._factor(name, site) for name, site in self.p_sites.items()}
        q_factors = {name: self._factor(name, site) for name, site in self.q_sites.items()}
        in_guide = tuple(n for n, s in self.q_sites.items() if _enum_dim(s) is not None)
        in_model = tuple(
            n for n, s in self.p_sites.items() if n not in q_factors and _enum_dim(s) is not None
        )
        self._check_score_sites(q_factors, in_guide)
        self.factors = (p_factors, q_factors, in_guide, in_model, self.plates)
        log_p, log_q = contract(*self.factors)
        sites = {}
        for name in [*self.q_sites, *(n for n in self.p_sites if n not in self.q_sites)]:
            sites[name] = self._site(name, log_p.get(name), log_q.get(name), {*in_guide, *in_model})
        first = next(iter(sites.values())).log_p if sites else torch.zeros(())
        return Terms(
            sites=sites,
            penalties=penalties,
            particles=self.particles,
            rows=self.rows,
            num_data=1 if joint else self.num_data,
            like=first.new_empty(0),
            scaled=tuple(dict.fromkeys(self.scaled)),
            expected=in_guide,
            order_p=tuple(n for n in self.p_sites if n in self.q_sites),
            order_q=tuple(n for n in self.q_sites if n in self.p_sites),
            joint=joint,
        )

    def _check_sites(self, joint: bool) -> None:
        for name, site in self.q_sites.items():
            if name not in self.p_sites and not is_factor(site) and not site["infer"].get("is_auxiliary"):
                raise PairError(
                    f"guide site {name!r} is not in the model: rename it to the model's site, delete it, "
                    "or mark it infer={'is_auxiliary': True}"
                )
        for name, site in self.p_sites.items():
            known = site["is_observed"] or name in self.q_sites or _enum_dim(site) is not None
            if not known:
                raise PairError(
                    f"latent {name!r} is missing from the guide and would be drawn from its prior: "
                    f"add pyro.sample({name!r}, ...) to the guide, or enumerate it"
                )
        if self.frame is None and not joint:
            raise PairError(
                'no site of the model lies in a plate called "data": wrap what is per datum in '
                'pyro.plate("data", rows, dim=-1)'
            )
        if self.frame is not None and self.frame.dim != -1:
            raise PairError(
                f'the plate "data" is at dim {self.frame.dim}: write pyro.plate("data", rows, dim=-1)'
            )

    def _check_score_sites(self, q_factors: dict[str, Factor], in_guide: tuple[str, ...]) -> None:
        """E_c[log w] E_c[grad log q(z | c)] is not E_c[log w grad log q(z | c)]: such a z has no
        score-function term."""
        dims = [dim for name in in_guide if (dim := q_factors[name].enum_dim) is not None]
        for name, factor in q_factors.items():
            sampled = name not in in_guide and not self.q_sites[name]["fn"].has_rsample
            shape = factor.log_prob.shape
            if sampled and any(len(shape) >= -dim and shape[dim] > 1 for dim in dims):
                raise PairError(
                    f"latent {name!r} is drawn given {in_guide[0]!r}, which the guide enumerates, and is not "
                    "reparameterized: enumerate both, or neither"
                )

    def _factor(self, name: str, site: dict) -> Factor:
        """The site's log-probability with the data plate's scale taken out, and where it lies."""
        fn, value = site["fn"], site["value"]
        try:
            log_prob = fn.log_prob(value, *site["args"], **site["kwargs"])
        except (ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise PairError(
                f"site {name!r} cannot be scored: {str(error).splitlines()[0]} Give the value, of shape "
                f"{tuple(value.shape)}, and its {type(fn).__name__} one shape and one support"
            ) from error
        scale = self._inner_scale(name, site)
        log_prob = scale_and_mask(log_prob, scale, site["mask"])
        self._check_shape(name, site, log_prob)
        return Factor(log_prob, self._inner_dims(site), self._is_local(site), _enum_dim(site))

    def _inner_scale(self, name: str, site: dict) -> Any:
        """What multiplies the site inside log w: everything but the data plate's N / B, which is ours."""
        scale, user = site["scale"], site["scale"]
        for frame in site["cond_indep_stack"]:
            if frame.full_size not in (None, frame.size):
                ratio = frame.full_size / frame.size
                user = user / ratio
                if frame.name == DATA_PLATE:
                    scale = scale / ratio
                else:
                    self.scaled.append(name)
        if isinstance(user, Tensor) or abs(user - 1.0) > 1e-9:
            self.scaled.append(name)
        return scale if isinstance(scale, Tensor) or abs(scale - 1.0) > 1e-9 else 1.0

    def _is_local(self, site: dict) -> bool:
        return self.joint or any(frame.name == DATA_PLATE for frame in site["cond_indep_stack"])

    def _inner_dims(self, site: dict) -> frozenset[int]:
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        return frozenset(f.dim for f in frames if f.name not in (DATA_PLATE, PARTICLE_PLATE))

    def _check_shape(self, name: str, site: dict, log_prob: Tensor) -> None:
        """Every batch dimension belongs to a plate; an observed value has exactly the shape it is scored
        at."""
        covered = {f.dim: f for f in site["cond_indep_stack"] if f.vectorized}
        for dim in range(-1, -1 - min(log_prob.dim(), 1 + self.plates), -1):
            size = log_prob.shape[dim]
            if size != 1 and (dim not in covered or covered[dim].size != size):
                raise PairError(
                    f"site {name!r} has size {size} at batch dim {dim}, where no plate of that size is: "
                    "use .to_event(), or give the data and the distribution the same shape"
                )
        if _enum_dim(site) is None and log_prob.dim() > 1 + self.plates and not self._enumerating:
            raise PairError(
                f"site {name!r} has batch shape {tuple(log_prob.shape)}, more than plates={self.plates} "
                "allows: use .to_event(), or raise Pair(plates=)"
            )
        if site["is_observed"] and not is_factor(site):
            event = tuple(site["fn"].event_shape)
            seen = tuple(site["value"].shape[site["value"].dim() - len(event) :])
            batch = tuple(site["value"].shape[: site["value"].dim() - len(event)])
            wanted = tuple(log_prob.shape[log_prob.dim() - len(batch) :])
            if seen != event or (batch[-self.plates :] != wanted[-self.plates :]):
                raise PairError(
                    f"observed site {name!r} has shape {tuple(site['value'].shape)} but its distribution has "
                    f"batch {wanted} and event {event}: they would broadcast silently; give both one shape"
                )

    @property
    def _enumerating(self) -> bool:
        sites = [*self.q_sites.values(), *self.p_sites.values()]
        return any(_enum_dim(site) is not None for site in sites)

    def _site(self, name: str, log_p, log_q, enumerated: set[str]) -> Site:
        p_site, q_site = self.p_sites.get(name), self.q_sites.get(name)
        site = p_site or q_site
        assert site is not None
        if p_site is not None and p_site["infer"].get("is_bound") and self._is_local(site):
            kind: Kind = "bound"
        elif p_site is not None and p_site["is_observed"]:
            kind = "observed"
        else:
            kind = "local" if self._is_local(site) else "global"
        q = q_site["fn"] if q_site else None
        how: How = "reparameterized" if q is None or q.has_rsample else "score"
        return Site(
            name=name,
            kind=kind,
            value=site["value"],
            p=p_site["fn"] if p_site else None,
            q=q,
            log_p=torch.zeros_like(log_q) if log_p is None else log_p,
            log_q=log_q,
            how="enumerate" if name in enumerated else how,
            analytic_kl=lambda: self._kl(p_site, q_site),
        )

    def _kl(self, p_site: dict | None, q_site: dict | None) -> Tensor | None:
        if p_site is None or q_site is None or not _same_weight(p_site, q_site):
            return None
        # A Bernoulli's KL asks a mask of no dimension for its value, which waits for the device.
        q, p = (fn if fn.batch_shape else fn.expand((1,)) for fn in (q_site["fn"], p_site["fn"]))
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            return None
        kl = scale_and_mask(kl, self._inner_scale(p_site["name"], p_site), q_site["mask"])
        return expected(Factor(kl, self._inner_dims(q_site), self._is_local(q_site), None), *self.factors)


def _enum_dim(site: dict) -> int | None:
    """The batch dimension along which the site is enumerated, None where it is sampled."""
    if site["infer"].get("enumerate") != "parallel" or site["is_observed"]:
        return None
    return site["infer"].get("_enumerate_dim")


def _same_weight(p_site: dict, q_site: dict) -> bool:
    """Whether log p and log q are scaled and masked alike, without reading a tensor."""
    scales, masks = (p_site["scale"], q_site["scale"]), (p_site["mask"], q_site["mask"])
    known = not any(isinstance(scale, Tensor) for scale in scales)
    alike = scales[0] == scales[1] if known else all(isinstance(scale, Tensor) for scale in scales)
    return alike and (masks[0] is None) == (masks[1] is None)


def _stack(parts: list[Terms]) -> Terms:
    """One Terms of K particles from K Terms of one."""
    first = parts[0]
    sites = {}
    for name, site in first.sites.items():
        each = [part.sites[name] for part in parts]

        def kls(each=each) -> Tensor | None:
            found = [s.analytic_kl() for s in each]
            return None if any(kl is None for kl in found) else torch.cat(found)  # type: ignore[arg-type]

        sites[name] = Site(
            name=name,
            kind=site.kind,
            value=torch.stack([s.value for s in each]),
            p=site.p,
            q=site.q,
            log_p=torch.cat([s.log_p for s in each]),
            log_q=None if site.log_q is None else torch.cat([s.log_q for s in each]),  # type: ignore[misc]
            how=site.how,
            analytic_kl=kls,
        )
    penalties = {
        name: Penalty(torch.stack([part.penalties[name].value for part in parts]).mean(), found.group)
        for name, found in first.penalties.items()
    }
    return Terms(
        sites=sites,
        penalties=penalties,
        particles=len(parts),
        rows=first.rows,
        num_data=first.num_data,
        like=first.like,
        scaled=first.scaled,
        expected=first.expected,
        order_p=first.order_p,
        order_q=first.order_q,
        joint=first.joint,
    )

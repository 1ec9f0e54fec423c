"""Score a pair on a batch: from the guide's draws to `Terms`.

Scoring never asks the device for a number, so that a step has no host synchronization. Every shape that
would broadcast silently is refused here, by the name of its site.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ppvae.contraction import Factor, contract, expected
from ppvae.drawing import DRAWN, PATH, Draw, Drawn, relaxed_log_prob
from ppvae.errors import PairError
from ppvae.terms import How, Kind, Penalty, Site, Terms, stack
from ppvae.tracing import DATA_PLATE, PARTICLE_PLATE, is_factor, run, sample_sites
from ppvae.wrapped import is_point, unmasked


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
    draw: Draw | None = None,
    leaves: bool = False,
) -> Terms:
    """Score `particles` draws of the guide for each datum.

    Args:
        batch: the keyword arguments of model and guide.
        plates: plate dimensions of the pair, the data plate included.
        num_data: N; read off a subsampled data plate where there is one, otherwise the rows of the batch.
        enumerated: discrete latents that are summed out, in the guide or in the model alone.
        vectorize: all particles at once in an outer plate; otherwise one after another.
        draw: makes the draws of some sites (`ppvae.drawing`); with `vectorize=False` one particle at a time.
        leaves: cut the graph behind each differentiable draw, and keep both ends in `Site.path`.

    Raises:
        PairError: a site is missing, lies in the wrong plate or has a shape that would broadcast silently.
    """
    if particles > 1 and not vectorize:
        options: dict[str, Any] = {"plates": plates, "num_data": num_data, "enumerated": enumerated}
        options |= {"draw": draw, "leaves": leaves}
        return stack([score(model, guide, batch, **options) for _ in range(particles)])
    guide_trace, model_trace, penalties = run(
        model, guide, batch, particles, plates, enumerated, draw, leaves
    )
    scoring = _Scoring(guide_trace, model_trace, particles, plates, num_data)
    return dataclasses.replace(scoring.terms(penalties, joint=not batch), inputs=batch)


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
        self.subsampled = self.frame is not None and self.frame.full_size not in (None, self.frame.size)
        full = self.frame.full_size if self.frame is not None and self.subsampled else None
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
            subsampled=self.subsampled,
        )

    def _check_sites(self, joint: bool) -> None:
        for name, site in self.q_sites.items():
            if name not in self.p_sites and not is_factor(site) and not site["infer"].get("is_auxiliary"):
                raise PairError(
                    f"guide site {name!r} is not in the model: rename it to the model's site, delete it, "
                    "or mark it infer={'is_auxiliary': True}"
                )
        for name, site in self.q_sites.items():
            if name in self.p_sites and _plates_of(site) != _plates_of(self.p_sites[name]):
                raise PairError(
                    f"latent {name!r} lies in the plates {_named(site)} in the guide and "
                    f"{_named(self.p_sites[name])} in the model: put it into the same ones"
                )
        for name, site in [*self.q_sites.items(), *self.p_sites.items()]:
            draws = site["infer"].get("num_samples")
            if _enum_dim(site) is not None and draws:
                raise PairError(
                    f"site {name!r} is enumerated by num_samples={draws} draws, which is no sum: "
                    "leave num_samples out, or use pyro:TraceTMC_ELBO"
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
            drawn = self._drawn(name)
            by_score = not self.q_sites[name]["fn"].has_rsample if drawn is None else drawn.how == "score"
            sampled = name not in in_guide and by_score
            shape = factor.log_prob.shape
            if sampled and any(len(shape) >= -dim and shape[dim] > 1 for dim in dims):
                raise PairError(
                    f"latent {name!r} is drawn given {in_guide[0]!r}, which the guide enumerates, and is not "
                    "reparameterized: enumerate both, or neither"
                )

    def _factor(self, name: str, site: dict) -> Factor:
        """The site's log-probability with the data plate's scale taken out, and where it lies."""
        fn, value = site["fn"], site["value"]
        drawn = self._drawn(name)
        relaxed = drawn is not None and drawn.how == "relaxed"
        try:
            log_prob = (
                relaxed_log_prob(fn, value)
                if relaxed
                else fn.log_prob(value, *site["args"], **site["kwargs"])
            )
        except (ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise PairError(
                f"site {name!r} cannot be scored: {str(error).splitlines()[0]} Give the value, of shape "
                f"{tuple(value.shape)}, and its {type(fn).__name__} one shape and one support"
            ) from error
        scale = self._inner_scale(name, site)
        law = unmasked(fn)
        raw = log_prob if relaxed or law is fn else law.log_prob(value, *site["args"], **site["kwargs"])
        log_prob = scale_and_mask(log_prob, scale, site["mask"])
        self._check_shape(name, site, log_prob)
        enum_dim = _enum_dim(site)
        return Factor(
            log_prob,
            self._inner_dims(site),
            self._is_local(site),
            enum_dim,
            joint=self.joint,
            scaled=name in self.scaled,
            raw=raw,
        )

    def _drawn(self, name: str) -> Drawn | None:
        """How an estimator drew this latent; None where the guide's distribution did."""
        return self.q_sites[name]["infer"].get(DRAWN) if name in self.q_sites else None

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
        drawn = self._drawn(name)
        how: How = "reparameterized" if q is None or q.has_rsample else "score"
        how = how if drawn is None else drawn.how
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
            noise=None if drawn is None else drawn.noise,
            law=None if log_q is None or name in enumerated else self._law(name, log_q),
            path=q_site["infer"].get(PATH, ()) if q_site else (),
        )

    def _law(self, name: str, log_q: Tensor) -> Tensor | None:
        """log q by rows, with neither mask nor scale; None given a latent that the guide enumerates, which
        is refused where it would be needed (`_check_score_sites`)."""
        factor = self.factors[1][name]
        if factor.raw is None or factor.raw is factor.log_prob:
            return log_q
        if factor.raw.dim() > 1 + self.plates:
            return None
        return dataclasses.replace(factor, log_prob=factor.raw).reduced(self.plates)

    def _kl(self, p_site: dict | None, q_site: dict | None) -> Tensor | None:
        if p_site is None or q_site is None or not _same_scale(p_site, q_site) or is_point(q_site["fn"]):
            return None
        if any(unmasked(site["fn"]) is not site["fn"] for site in (p_site, q_site)):
            return None  # torch and Pyro know it where both count, and call the rest zero
        # A Bernoulli's KL asks a mask of no dimension for its value, which waits for the device.
        q, p = (fn if fn.batch_shape else fn.expand((1,)) for fn in (q_site["fn"], p_site["fn"]))
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            return None
        kl = scale_and_mask(kl, self._inner_scale(p_site["name"], p_site), None)
        masks = [m for m in (p_site["mask"], q_site["mask"]) if m is not None and m is not True]
        if masks:
            # The closed form holds where both count; where one counts alone, the sampled terms do.
            both = torch.as_tensor(masks[0]) & torch.as_tensor(masks[-1])
            p_factors, q_factors = self.factors[:2]
            name = p_site["name"]
            kl = torch.where(both, kl, q_factors[name].log_prob - p_factors[name].log_prob)
        factor = Factor(kl, self._inner_dims(q_site), self._is_local(q_site), None, joint=self.joint)
        return expected(factor, *self.factors)


def _plates_of(site: dict) -> set[tuple[str, int, int]]:
    frames = [f for f in site["cond_indep_stack"] if f.vectorized]
    return {(f.name, f.dim, f.size) for f in frames if f.name != PARTICLE_PLATE}


def _named(site: dict) -> str:
    return ", ".join(sorted(f"{name!r} at dim {dim}" for name, dim, _ in _plates_of(site))) or "none"


def _enum_dim(site: dict) -> int | None:
    """The batch dimension along which the site is enumerated, None where it is sampled."""
    if site["infer"].get("enumerate") != "parallel" or site["is_observed"]:
        return None
    return site["infer"].get("_enumerate_dim")


def _same_scale(p_site: dict, q_site: dict) -> bool:
    """Whether log p and log q are scaled alike, without reading a tensor: tensors must be the same object."""
    a, b = p_site["scale"], q_site["scale"]
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)

"""Sum enumerated latents out exactly, and say what each site contributed.

A latent c that only the model has is marginalized: log sum_c exp(joint). With r(c) the posterior of c given
everything else, the same number is E_r[joint] + H(r), which splits into one part per site: r plays the guide
of c, so that c has a log p, a log q = log r and a rate KL(r, p) like any other latent. A latent c that the
guide proposes is summed under q: E_q[log p - log q].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.errors import PairError


@dataclass
class Factor:
    """One log-probability tensor; its batch dims are (enumerated..., particles, inner plates..., data)."""

    log_prob: Tensor
    inner: frozenset[int]
    """Dims of the plates that lie between the particles and the data."""
    local: bool
    enum_dim: int | None
    """The dim along which this very site is enumerated."""
    joint: bool = False
    """The model has no data: whatever plates there are, all of it is one row."""
    scaled: bool = False
    raw: Tensor | None = None
    """The log-probability without mask and scale: that of a law, which sums to one."""

    def padded(self, plates: int) -> Tensor:
        return _padded(self.log_prob, plates)

    def to_rows(self, x: Tensor, plates: int) -> Tensor:
        """(K, B) for a local factor, (K,) for a global one, (K, 1) for one of a model without data."""
        if self.joint:
            return x.sum(tuple(range(-plates, 0))).unsqueeze(-1)
        dims = tuple(range(-plates, -1)) if self.local else tuple(range(-plates, 0))
        return x.sum(dims) if dims else x

    def reduced(self, plates: int) -> Tensor:
        """The factor by rows; only without enumerated dims."""
        return self.to_rows(self.padded(plates), plates)


def _padded(x: Tensor, plates: int) -> Tensor:
    missing = 1 + plates - x.dim()
    return x.reshape((1,) * missing + x.shape) if missing > 0 else x


def contract(
    p: dict[str, Factor],
    q: dict[str, Factor],
    in_guide: tuple[str, ...],
    in_model: tuple[str, ...],
    plates: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(log p, log q) by site, enumerated dims summed out; their difference adds up to log w."""
    if not in_guide and not in_model:
        return (
            {name: factor.reduced(plates) for name, factor in p.items()},
            {name: factor.reduced(plates) for name, factor in q.items()},
        )
    return _Contraction(p, q, in_guide, in_model, plates).run()


def expected(
    factor: Factor,
    p: dict[str, Factor],
    q: dict[str, Factor],
    in_guide: tuple[str, ...],
    in_model: tuple[str, ...],
    plates: int,
) -> Tensor | None:
    """A closed-form KL by rows, averaged over the sites that the guide enumerates.

    None where it varies with a site that only the model enumerates: that one stands inside a logsumexp.
    """
    if not in_guide and not in_model:
        return factor.reduced(plates)
    contraction = _Contraction(p, q, in_guide, in_model, plates)
    x = contraction._aligned(factor)
    if _varies(x, contraction.model_dims):
        return None
    found = {"kl": x}
    contraction._expect(found, {})
    return factor.to_rows(_drop_left(found["kl"], 1 + plates), plates)


class _Contraction:
    def __init__(self, p, q, in_guide, in_model, plates: int):
        self.p, self.q, self.plates = p, q, plates
        enumerated = [*(q[name] for name in in_guide), *(p[name] for name in in_model)]
        self.guide_dims = tuple(q[name].enum_dim for name in in_guide)
        self.model_dims = tuple(p[name].enum_dim for name in in_model)
        if len({*self.guide_dims, *self.model_dims}) < len(enumerated):
            raise PairError(
                "two enumerated sites share a dimension (pyro.markov): use pyro:TraceEnum_ELBO instead"
            )
        if len({factor.inner for factor in enumerated}) > 1 or not all(f.local for f in enumerated):
            raise PairError(
                "enumerated sites lie in different plates or outside the data plate: "
                "use pyro:TraceEnum_ELBO instead"
            )
        self.inner = enumerated[0].inner
        self.in_model, self.in_guide = in_model, in_guide
        dims = (*self.guide_dims, *self.model_dims)
        for name, factor in [*p.items(), *q.items()]:
            # A scale belongs outside the sum over c, where it could stand only if all had the same one.
            if factor.scaled and _varies(factor.log_prob, dims):
                raise PairError(
                    f"site {name!r} carries a scale and depends on an enumerated site: write it unscaled, "
                    "or use pyro:TraceEnum_ELBO"
                )
            outside = not factor.local or not self.inner <= factor.inner
            if outside and _varies(factor.log_prob, dims):
                raise PairError(
                    f"site {name!r} depends on an enumerated latent from outside that latent's plates, where "
                    "its joint states would have to be summed: draw it, or put the site into its plates"
                )

    def run(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        p = {name: self._aligned(factor) for name, factor in self.p.items()}
        q = {name: self._aligned(factor) for name, factor in self.q.items()}
        for name in self.in_model:
            # A mask silences what c explains, never c's own law: sum_c p(c) is one in any case.
            p[name] = self._raw(self.p[name])
            q[name] = torch.zeros_like(p[name])
        self._marginalize(p, q)
        self._expect(p, q)
        factors = {**self.q, **self.p}
        kept = 1 + self.plates
        rows = [
            {n: factors[n].to_rows(_drop_left(x, kept), self.plates) for n, x in terms.items()}
            for terms in (p, q)
        ]
        return rows[0], rows[1]

    def _aligned(self, factor: Factor) -> Tensor:
        """Sum what is conditionally independent given the enumerated sites: plates that they do not lie
        in."""
        x = factor.padded(self.plates)
        dims = tuple(factor.inner - self.inner)
        return x.sum(dims, keepdim=True) if dims else x

    def _raw(self, factor: Factor) -> Tensor:
        assert factor.raw is not None
        return _padded(factor.raw, self.plates)

    def _marginalize(self, p: dict[str, Tensor], q: dict[str, Tensor]) -> None:
        """Sum out the sites that only the model enumerates, under their posterior r."""
        dims = self.model_dims
        if not dims:
            return
        touched = [name for name, x in p.items() if name in self.in_model or _varies(x, dims)]
        joint = sum(p[name] for name in touched)
        assert isinstance(joint, Tensor)
        log_r = joint - joint.logsumexp(dims, keepdim=True)
        r = log_r.exp()
        for name in touched:
            p[name] = _mean(r, p[name], dims)
        # H(r) goes to the first enumerated site: with several, r does not factorize.
        q[self.in_model[0]] = _mean(r, log_r, dims)
        for name in self.in_model[1:]:
            q[name] = torch.zeros_like(q[self.in_model[0]])

    def _expect(self, p: dict[str, Tensor], q: dict[str, Tensor]) -> None:
        """Average over the sites that the guide enumerates, under the guide."""
        dims = self.guide_dims
        if not dims:
            return
        log_q = sum(self._raw(self.q[name]) for name in self.in_guide)
        assert isinstance(log_q, Tensor)
        weight = log_q.exp()
        for terms in (p, q):
            for name, x in terms.items():
                if _varies(x, dims):
                    terms[name] = _mean(weight, x, dims)


def _varies(x: Tensor, dims: tuple[int, ...]) -> bool:
    return any(x.dim() >= -dim and x.shape[dim] > 1 for dim in dims)


def _mean(weight: Tensor, x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """sum(weight * x) over dims, where a weight of zero silences an x of -inf, in value and gradient."""
    return (weight * torch.where(weight == 0, 0.0, x)).sum(dims, keepdim=True)


def _drop_left(x: Tensor, keep: int) -> Tensor:
    return x.reshape(x.shape[x.dim() - keep :])

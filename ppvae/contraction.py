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

    def padded(self, plates: int) -> Tensor:
        missing = 1 + plates - self.log_prob.dim()
        return self.log_prob.reshape((1,) * missing + self.log_prob.shape) if missing > 0 else self.log_prob

    def reduced(self, plates: int) -> Tensor:
        """(K, B) for a local factor, (K,) for a global one; only without enumerated dims."""
        return _to_rows(self.padded(plates), plates, self.local)


def _to_rows(x: Tensor, plates: int, local: bool) -> Tensor:
    dims = tuple(range(-plates, -1)) if local else tuple(range(-plates, 0))
    return x.sum(dims) if dims else x


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
    contraction._expect(found, {name: contraction._aligned(q[name]) for name in in_guide})
    return _to_rows(_drop_left(found["kl"], 1 + plates), plates, factor.local)


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

    def run(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        p = {name: self._aligned(factor) for name, factor in self.p.items()}
        q = {name: self._aligned(factor) for name, factor in self.q.items()}
        for name in self.in_model:
            q[name] = torch.zeros_like(p[name])
        self._marginalize(p, q)
        self._expect(p, q)
        local = {**{n: f.local for n, f in self.q.items()}, **{n: f.local for n, f in self.p.items()}}
        rows = lambda name, x: _to_rows(_drop_left(x, 1 + self.plates), self.plates, local[name])  # noqa: E731
        return {n: rows(n, x) for n, x in p.items()}, {n: rows(n, x) for n, x in q.items()}

    def _aligned(self, factor: Factor) -> Tensor:
        """Sum what is conditionally independent given the enumerated sites: plates that they do not lie
        in."""
        x = factor.padded(self.plates)
        dims = tuple(factor.inner - self.inner)
        return x.sum(dims, keepdim=True) if dims else x

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
        log_q = sum(q[name] for name in self.in_guide)
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

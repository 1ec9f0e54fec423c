"""The additive terms of log p(x, z) - log q(z | x), site by site.

    log w[k, b] = sum_observed log p(x_b | z_kb) + sum_latent (log p(z_kb) - log q(z_kb | x_b))

Everything an estimator, a rate, or a picture needs is read off one object, `Terms`, which `ppvae.scoring`
makes. Shapes are K (particles) by B (data).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ppvae.shapes import Float

Kind = Literal["observed", "local", "global", "bound"]
How = Literal["reparameterized", "score", "enumerate", "relaxed"]


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
    """As it counts in log w: None where nothing is inferred, and with the site's mask and scale."""
    how: How = "reparameterized"
    analytic_kl: Callable[[], Tensor | None] = lambda: None
    """KL(q, p) of this site in closed form, (K, B) or (K,), given its parents; None where none is known."""
    noise: Any = None
    """What an estimator that made the draw itself keeps of it (`ppvae.drawing`)."""
    law: Tensor | None = None
    """log q without mask and scale, of a latent that is not summed out: what the score function
    differentiates. A draw that is masked out, or weighs little, may still decide what is drawn after it.
    Where there is neither, it is `log_q` itself."""
    path: tuple[tuple[Tensor, Tensor], ...] = ()
    """(leaf, attached draw), one a scored run: `value` is the leaf. Empty unless scored with leaves."""

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
    subsampled: bool = False
    """Whether the model's own data plate says N and takes the batch for a sample of them."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What model and guide were given: the fields of the batch that the pair uses."""

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
        return self.log_shared + self._total([s.log_ratio for s in self.of("global")], self.particles)

    @property
    def log_shared(self) -> Float[Tensor, " K"]:
        """log p of what is observed outside the data plate, in nats for the whole data set: it may read the
        latents of every datum."""
        return self._total([s.log_p for s in self.of("observed") if s.log_p.dim() == 1], self.particles)

    @property
    def has_global(self) -> bool:
        return any(site.log_p.dim() == 1 for site in self.sites.values())


def stack(parts: list[Terms]) -> Terms:
    """One Terms of K particles from K Terms of one."""
    first = parts[0]
    sites = {}
    for name, site in first.sites.items():
        each = [part.sites[name] for part in parts]

        def kls(each=each) -> Tensor | None:
            found = [s.analytic_kl() for s in each]
            return None if any(kl is None for kl in found) else torch.cat(found)  # type: ignore[arg-type]

        log_q = _joined([s.log_q for s in each])
        law = log_q if site.law is site.log_q else _joined([s.law for s in each])
        sites[name] = dataclasses.replace(
            site,
            value=torch.stack([s.value for s in each]),
            log_p=torch.cat([s.log_p for s in each]),
            log_q=log_q,
            law=law,
            analytic_kl=kls,
            noise=None if site.noise is None else [s.noise for s in each],
            path=tuple(pair for s in each for pair in s.path),
        )
    penalties = {
        name: Penalty(torch.stack([part.penalties[name].value for part in parts]).mean(), found.group)
        for name, found in first.penalties.items()
    }
    return dataclasses.replace(first, sites=sites, penalties=penalties, particles=len(parts))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """All particles of one term; None where the site has none."""
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None

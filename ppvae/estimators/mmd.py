"""An information-maximizing VAE: the aggregate of the guide is held to the prior by the maximum mean
discrepancy, each datum's own guide by nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ppvae.errors import PairError
from ppvae.estimators.base import Claims, Estimator, Knobs, Needs
from ppvae.estimators.objective import Objective
from ppvae.shapes import Float
from ppvae.terms import Site, Terms


class MMD(Estimator):
    """loss = E_q[-log p(x | z)] + weight * MMD^2(q(z), p(z)), q(z) being the mean of q(z | x) over the data:

        MMD^2(q, p) = E k(z, z') + E k(y, y') - 2 E k(z, y),    z, z' ~ q,  y, y' ~ p,  all independent,
        k(z, y) = exp(-|z - y|^2 / (2 length^2)).

    No bound: the rate is gone, and the codes of single data may be as sharp as the decoder likes. The loss is
    unbiased over mini-batches drawn with replacement (without, the pairs of a datum with itself are missing,
    a share 1/N): pairs of draws for one and the same datum are not independent and are left out, of codes, of
    prior draws (whose law may depend on a condition) and between the two, so that single estimates may be
    negative. As many y are drawn from the prior as there are z. Cost grows
    with (K B)^2. One local latent of any size; two rows or more.

    Args:
        weight: of MMD^2, in nats.
        length: of the kernel; None: the square root of the latent's size, at which pairs of a standard normal
            have k near exp(-1) in any dimension.

    Reference: Zhao, Song & Ermon (2019), InfoVAE, arXiv:1706.02262, with alpha = 1 and weight = lambda;
    Gretton et al. (2012), A Kernel Two-Sample Test, JMLR 13.
    """

    needs = Needs(reparameterized=True)
    claims = Claims()

    def __init__(
        self,
        particles: int = 1,
        weight: float = 1000.0,
        length: float | None = None,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, sites)
        if weight < 0:
            raise ValueError(f"weight={weight}: a negative weight would drive the codes away from the prior")
        if length is not None and length <= 0:
            raise ValueError(f"length={length}: a kernel's length is positive")
        self.weight, self.length = weight, length

    def refuse(self, terms: Terms) -> None:
        super().refuse(terms)
        latents = [site.name for site in terms.sites.values() if site.kind != "observed"]
        if len(latents) != 1 or terms.has_global:
            raise PairError(
                f"MMD compares one local latent with its prior, but this pair has {', '.join(latents)}: "
                "use elbo"
            )
        if terms.of("local")[0].how == "enumerate":
            raise PairError(f"MMD cannot take {latents[0]!r}, which is enumerated: use elbo")
        if terms.rows < 2:
            raise PairError("MMD compares the rows of a batch with each other: give it two or more")
        site = terms.of("local")[0]
        if site.p is None or not (site.p.has_rsample or _fixed(site)):
            raise PairError(
                f"MMD needs a prior of {latents[0]!r} that is fixed or reparameterized: use a Normal, or elbo"
            )

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        (site,) = terms.of("local")
        event_dim = site.q.event_dim
        drawn = site.p.expand(site.value.shape[: site.value.dim() - event_dim])
        prior = drawn.rsample() if drawn.has_rsample else drawn.sample()
        codes, prior = (_by_rows(value, event_dim, terms) for value in (site.value, prior))
        discrepancy = squared_mmd(codes, prior, self.length or math.sqrt(codes.shape[-1]))
        loss = self.weight * discrepancy - terms.log_likelihood.mean()
        return Objective(None, {"all": loss}, {"mmd": discrepancy.detach()})


def _fixed(site: Site) -> bool:
    return not site.p.log_prob(site.value.detach()).requires_grad


def _by_rows(value: Tensor, event_dim: int, terms: Terms) -> Float[Tensor, "B K D"]:
    """The draws of a site, particles leftmost and data last of its batch dims, as vectors by row."""
    by_row = value.movedim(value.dim() - event_dim - 1, 0)
    return by_row.reshape(terms.rows, terms.particles, -1)


def squared_mmd(
    codes: Float[Tensor, "B K D"], prior: Float[Tensor, "B K D"], length: float
) -> Float[Tensor, ""]:
    """MMD^2 from draws, without bias: pairs of one row, which may share a condition, are left out of all
    three means."""
    rows, particles, _ = codes.shape
    z, y = codes.flatten(0, 1), prior.flatten(0, 1)

    def between(a: Tensor, b: Tensor) -> Tensor:
        by_row = _kernel(a, b, length).unflatten(1, (rows, particles)).unflatten(0, (rows, particles))
        by_row = by_row.sum((1, 3))
        return (by_row.sum() - by_row.diagonal().sum()) / (rows * (rows - 1) * particles**2)

    return between(z, z) + between(y, y) - 2 * between(z, y)


def _kernel(a: Tensor, b: Tensor, length: float) -> Tensor:
    center = b.mean(0).detach()  # far from zero, the squares would cancel
    a, b = a - center, b - center
    squares = a.pow(2).sum(-1).unsqueeze(1) + b.pow(2).sum(-1) - 2 * a @ b.mT
    return (-squares.clamp(min=0) / (2 * length**2)).exp()

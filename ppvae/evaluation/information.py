"""What the rate is made of: information about the datum, dependence among latents, distance of the prior.

For a latent z whose guide q(z | x) knows nothing but x, with the aggregate q(z) = (1/n) sum_j q(z | x_j) over
the n data that are evaluated,

    rate = E KL(q(z | x), p(z)) = I_q(x; z)                        mutual information
                                + KL(q(z), prod_d q(z_d))          total correlation
                                + sum_d KL(q(z_d), p(z_d))         dimension-wise KL

where the last two are the marginal KL(q(z), p(z)), and are told apart where both q(z | x) and p(z) are
products over dimensions. One draw z_i ~ q(z | x_i) a datum; the parts of each draw add up to its rate.

Bias: for the n data themselves nothing is biased, since q(z_i) is the sum over all of them, x_i included. For
the law that the data come from, I is then a lower bound in expectation, never far above log n, which it
approaches when each datum has a region of its own; what it lacks is counted as total correlation. Leaving
x_i out of the sum gives an upper bound in expectation. Where the two are far apart, n is too small to tell
information from correlation. The dimension-wise KL suffers little: in one dimension data overlap.

References: Hoffman & Johnson (2016), ELBO Surgery; Chen, Li, Grosse & Duvenaud (2018), Isolating Sources of
Disentanglement in VAEs, arXiv:1802.04942 (who estimate q(z) from a minibatch; here the sum is over all);
Poole, Ozair, van den Oord, Alemi & Tucker (2019), On Variational Bounds of Mutual Information,
arXiv:1905.06922 (the two bounds).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.errors import PairError
from ppvae.evaluation.means import batches, evaluating
from ppvae.evaluation.summary import mean_and_stderr
from ppvae.terms import Site

CHUNK_ELEMENTS = 2**20
"""Log-densities that are held at once; of the n^2 D there are, all but sums are thrown away."""


@dataclass(frozen=True)
class Information:
    """The parts of the rate of one latent, (n,) in nats for n draws, float64."""

    rate: Tensor
    mutual_information: Tensor
    mutual_information_upper: Tensor
    """With the draw's own datum left out of the aggregate."""
    marginal_kl: Tensor
    total_correlation: Tensor | None
    """None where q(z | x) is no product over dimensions."""
    dimension_kl: Tensor | None
    """(n, D): log q(z_d) - log p(z_d). None where q(z | x) or p(z) is no product."""


def information(
    built: Built, split: Any, *, seed: int = 0, rows: int = 512
) -> tuple[dict[str, Information], dict[str, str]]:
    """By latent site, the parts of its rate over all data of the split; and by site, why there are none.

    Takes n^2 D densities of q for each site: a second for 1,000 data and 50 dimensions.
    """
    found, reasons = {}, {}
    with evaluating(built, seed):
        drawn = [_latents(built, batch) for batch in batches(built, split, rows)]
        again = _latents(built, next(batches(built, split, rows)))
        for name in again:
            try:
                found[name] = _of_site([sites[name] for sites in drawn], again[name])
            except PairError as error:
                reasons[name] = str(error)
    return found, reasons


def _latents(built: Built, batch: dict[str, Tensor]) -> dict[str, Site]:
    """The latents of one draw; without their closed forms, which hold on to all that was computed."""
    sites = built.score(built.inputs(batch), 1).sites.values()
    return {s.name: replace(s, analytic_kl=lambda: None) for s in sites if s.kind != "observed"}


def _of_site(sites: list[Site], again: Site) -> Information:
    _refuse(sites, again)
    z = torch.cat([site.value for site in sites])
    log_q = torch.cat([site.log_q[0] for site in sites if site.log_q is not None]).double()
    rate = log_q - torch.cat([site.log_p[0] for site in sites]).double()
    singles = [_factors(site.q) for site in sites]
    factors = None if any(part is None for part in singles) else singles
    try:
        joint, others, each = _aggregate(z, [site.q for site in sites], factors)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PairError(f"its guide cannot score the draws of other data ({first})") from error
    prior = _by_dimension(sites)
    return Information(
        rate=rate,
        mutual_information=log_q - joint,
        mutual_information_upper=log_q - others,
        marginal_kl=rate - (log_q - joint),
        total_correlation=None if each is None else joint - each.sum(1),
        dimension_kl=None if each is None or prior is None else each - prior,
    )


def _refuse(sites: list[Site], again: Site) -> None:
    """Raise PairError unless q depends on the datum alone and p on nothing."""
    first = sites[0]
    if first.kind != "local":
        raise PairError("it is not of one datum")
    if first.q is None or first.how == "enumerate":
        raise PairError("it is summed out: there are no draws of it")
    if first.p is None:
        raise PairError("the model has no prior for it")
    if sum(site.log_p.shape[-1] for site in sites) < 2:
        raise PairError("one datum has no aggregate: evaluate 2 or more")
    for site in sites:
        for name, part, log in (("guide", site.q, site.log_q), ("prior", site.p, site.log_p)):
            assert log is not None
            if tuple(part.batch_shape) != tuple(log.shape[-1:]):
                raise PairError(f"its {name} has further dimensions: plates, or a latent that is summed out")
            if not _same(part.log_prob(site.value), log[0]):
                raise PairError(f"its {name} is masked or scaled")
    if not _same(again.q.log_prob(first.value), first.q.log_prob(first.value)):
        raise PairError("its guide depends on draws of other latents, whose aggregate is not known")
    if not _same(first.p.log_prob(first.value.roll(1, 0)), first.p.log_prob(first.value).roll(1, 0)):
        raise PairError("its prior is not the same for all data: it depends on other latents or conditions")


def _same(one: Tensor, other: Tensor) -> bool:
    """Up to rounding, which differs with the place in a vector."""
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def _factors(distribution: Any) -> Any | None:
    """The distributions of the single numbers of a product, of batch shape (B, *event); None for no
    product."""
    inner = distribution
    while type(inner).__name__ == "Independent":
        inner = inner.base_dist
    return inner if tuple(inner.event_shape) == () else None


def _by_dimension(sites: list[Site]) -> Tensor | None:
    """log p(z_d) of each draw, (n, D); None where the prior is no product."""
    found = []
    for site in sites:
        factors = _factors(site.p)
        if factors is None:
            return None
        found.append(factors.log_prob(site.value).reshape(len(site.value), -1).double())
    return torch.cat(found)


def _aggregate(
    z: Tensor, guides: list[Any], factors: list[Any] | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """log q(z_i) under the mean of all n guides, and under the mean of the others, (n,); and log q(z_id) of
    each dimension, (n, D), where the guides are products."""
    n, dims = len(z), math.prod(z.shape[1:])
    widest = max(guide.batch_shape[0] for guide in guides)
    own = torch.arange(n, device=z.device)
    joint, others, each = [], [], []
    size = max(1, CHUNK_ELEMENTS // (widest * dims))
    for part, column in zip(z.split(size), own.split(size), strict=True):
        there = part.unsqueeze(1)  # (part, 1, *event), against guides of batch shape (B,)
        if factors is None:
            dense = torch.cat([guide.log_prob(there) for guide in guides], 1).double()
        else:
            sums, singles = [], []
            for guide, factor in zip(guides, factors, strict=True):
                single = factor.log_prob(there).reshape(len(part), guide.batch_shape[0], -1).double()
                sums.append(single.sum(2))
                singles.append(single.logsumexp(1))
            dense = torch.cat(sums, 1)
            each.append(torch.stack(singles).logsumexp(0) - math.log(n))
        joint.append(dense.logsumexp(1) - math.log(n))
        others.append(dense.scatter(1, column[:, None], -math.inf).logsumexp(1) - math.log(n - 1))
    return torch.cat(joint), torch.cat(others), torch.cat(each) if each else None


def information_summary(found: Information) -> dict[str, Any]:
    """The entry of evaluation.json: means over the draws in nats per datum, with their standard errors."""
    results: dict[str, Any] = {"n": len(found.rate)}
    each = found.dimension_kl
    parts = {field.name: getattr(found, field.name) for field in fields(found)}
    parts["dimension_kl"] = None if each is None else each.sum(1)
    for name, values in parts.items():
        results[name], results[f"{name}_stderr"] = (None, None) if values is None else mean_and_stderr(values)
    results["dimension_kl_each"] = None if each is None else each.mean(0).tolist()
    return results

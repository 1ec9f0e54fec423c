"""The best Gaussian posterior of each datum by itself: fitted to all data of a batch at once.

    q(u) = N(loc, width width'),   maximizing L = E_q[log p(x, u) - log q(u)]

The fit moves in units of the width that it begins with: loc + width shift and width root are what it tries,
from shift = 0 and root = I.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.errors import PairError
from ppvae.estimators.base import weights_obstacle
from ppvae.evaluation.log_joint import LogJoint
from ppvae.shapes import Float
from ppvae.terms import Site

Family = Literal["mean_field", "full"]

AT_ONCE = 100
"""Draws of a datum that are scored in one pass."""


@dataclass(frozen=True)
class LocalGaussian:
    """q(u) = N(loc, width width') for each datum."""

    loc: Float[Tensor, "B D"]
    width: Float[Tensor, "B D"] | Float[Tensor, "B D D"]
    """Lower triangular; of a mean field, its diagonal."""
    family: Family
    note: str | None
    """How the family differs from the guide's; None where it does not."""
    is_guide: bool
    """Whether this is the guide itself."""


def guide_gaussian(built: Built, batch: Mapping[str, Tensor], family: Family | None) -> LocalGaussian:
    """The guide's own parameters, or where it has several latents, the moments of its draws."""
    joint = LogJoint(built, batch, 1, "prior")
    terms = built.score(batch, 1)
    if obstacle := weights_obstacle(terms):
        raise PairError(f"the best q of each datum {obstacle}")
    for name in joint.names:
        _refuse_site(terms.sites[name])
    first, *others = joint.names
    if others:
        return _moments(built, batch, joint.names, family)
    site = terms.sites[first]
    q = _inner(site)
    loc = joint.unconstrained({site.name: q.loc.expand(site.value.shape)}).squeeze(0)
    if type(q).__name__ == "Normal":
        scale = joint.unconstrained({site.name: q.scale.expand(site.value.shape)}).squeeze(0)
        if family != "full":
            return LocalGaussian(loc, scale, "mean_field", None, True)
        note = "q* has a full covariance, the guide a diagonal one"
        return LocalGaussian(loc, torch.diag_embed(scale), "full", note, True)
    root = torch.linalg.cholesky(q.covariance_matrix).expand(*loc.shape, joint.size)
    if family == "mean_field":
        # The diagonal Gaussian nearest to the guide's in KL(., guide).
        scale = torch.cholesky_inverse(root).diagonal(dim1=-2, dim2=-1).rsqrt()
        return LocalGaussian(
            loc, scale, "mean_field", "q* has a diagonal covariance, the guide none such", False
        )
    low_rank = type(q).__name__ == "LowRankMultivariateNormal"
    note = "q* has a full covariance, the guide one of low rank" if low_rank else None
    return LocalGaussian(loc, root, "full", note, True)


def _moments(
    built: Built, batch: Mapping[str, Tensor], names: tuple[str, ...], family: Family | None
) -> LocalGaussian:
    if family == "full":
        raise PairError(
            f"a full covariance over {', '.join(names)} has no start among the guide's parameters: "
            "use family='mean_field'"
        )
    u = LogJoint(built, batch, AT_ONCE).draw()
    note = f"q* makes all coordinates of {', '.join(names)} independent, which the guide need not"
    return LocalGaussian(u.mean(0), u.std(0), "mean_field", note, False)


def _inner(site: Site) -> Any:
    """The guide's distribution under an Independent, of which no other wrapper is a Gaussian."""
    return site.q.base_dist if type(site.q).__name__ == "Independent" else site.q


def _refuse_site(site: Site) -> None:
    q = _inner(site)
    if type(q).__name__ not in ("Normal", "MultivariateNormal", "LowRankMultivariateNormal"):
        raise PairError(
            f"the best q of each datum is sought among Gaussians, but {site.name!r} is drawn from a "
            f"{type(q).__name__}: use a Normal or a MultivariateNormal in the guide"
        )
    log_q = site.q.log_prob(site.value)
    counted = log_q.reshape(-1, log_q.shape[-1]).sum(0)
    if not torch.allclose(counted, site.log_q[0], rtol=1e-4, atol=1e-4):  # type: ignore[index]
        raise PairError(
            f"latent {site.name!r} is masked for some data, where any q does and the widest wins: "
            "leave the mask out"
        )


def fitted(
    joint: LogJoint, start: LocalGaussian, steps: int, lr: float
) -> tuple[LocalGaussian, LocalGaussian]:
    """(q*, where it was half way), by Adam, whose rate falls from `lr` to zero by a cosine.

    It follows the path derivative of the ELBO (Roeder et al. 2017), which is without noise where q* is the
    posterior.
    """
    shift, log_scale = torch.zeros_like(start.loc), torch.zeros_like(start.loc)
    below = torch.zeros_like(start.width)
    moving = [shift, log_scale] + ([below] if start.family == "full" else [])
    optimizer = torch.optim.Adam([value.requires_grad_() for value in moving], lr=lr)
    half = start
    for step in range(steps):
        if step == steps // 2:
            half = _moved(start, shift, _root(log_scale, below))
        optimizer.param_groups[0]["lr"] = 0.5 * lr * (1 + math.cos(math.pi * step / steps))
        with torch.enable_grad():
            root = _root(log_scale, below)
            eps = _antithetic(joint, shift)
            v = shift + _times(root, eps)
            # d log q / dv = -root^-T eps, with q's parameters held where they are.
            pull = (_solved(root, eps).detach() * v).sum(-1)
            objective = joint.log_joint(start.loc + _times(start.width, v)) + pull
            gradients = torch.autograd.grad(-objective.mean(0).sum(), moving)
        for value, gradient in zip(moving, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
    return _moved(start, shift, _root(log_scale, below)), half


def gain(joint: LogJoint, after: LocalGaussian, before: LocalGaussian) -> Float[Tensor, " B"]:
    """How far the ELBO of one is above that of the other, from `AT_ONCE` draws that they share."""
    found = []
    for _ in range(-(-AT_ONCE // joint.shape[0])):
        eps = _antithetic(joint, after.loc)
        found.append(log_ratio(joint, after, eps) - log_ratio(joint, before, eps))
    return torch.cat(found).mean(0)


def elbos(
    built: Built, batch: Mapping[str, Tensor], guide: LocalGaussian, best: LocalGaussian, draws: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(L[q_phi], L[q*], error of L[q*], error of their difference), each (B,), from fresh draws."""
    joint = LogJoint(built, batch, min(draws, AT_ONCE), "prior")
    local, own = [], []
    for _ in range(-(-draws // joint.shape[0])):
        eps = torch.randn(*joint.shape, joint.size, dtype=best.loc.dtype, device=best.loc.device)
        local.append(log_ratio(joint, best, eps))
        if guide.is_guide:  # the same noise in both: what they share is not in the error of the difference
            own.append(log_ratio(joint, guide, eps))
        else:
            own.append(built.score(batch, joint.shape[0]).log_weight.double())
    best_ratio, own_ratio = torch.cat(local), torch.cat(own)
    count = math.sqrt(len(best_ratio))
    paired = best_ratio - own_ratio
    return own_ratio.mean(0), best_ratio.mean(0), best_ratio.std(0) / count, paired.std(0) / count


def log_ratio(joint: LogJoint, q: LocalGaussian, eps: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
    """log p(x, u) - log q(u) at u = loc + width eps."""
    log_det = _diagonal(q.width).log().sum(-1)
    log_q = -0.5 * eps.square().sum(-1) - 0.5 * joint.size * math.log(2 * math.pi) - log_det
    return (joint.log_joint(q.loc + _times(q.width, eps)) - log_q).double()


def _moved(q: LocalGaussian, shift: Tensor, root: Tensor) -> LocalGaussian:
    shift, root = shift.detach(), root.detach()
    loc = q.loc + _times(q.width, shift.unsqueeze(0)).squeeze(0)
    width = q.width * root if root.dim() == 2 else q.width @ root
    return dataclasses.replace(q, loc=loc, width=width, is_guide=False)


def _antithetic(joint: LogJoint, like: Tensor) -> Float[Tensor, "K B D"]:
    """Noise of which one half mirrors the other, so that its mean is none."""
    chains, rows = joint.shape
    first = torch.randn(-(-chains // 2), rows, joint.size, dtype=like.dtype, device=like.device)
    return torch.cat([first, -first])[:chains]


def _root(log_scale: Tensor, below: Tensor) -> Tensor:
    return log_scale.exp() if below.dim() == 2 else torch.diag_embed(log_scale.exp()) + below.tril(-1)


def _times(root: Tensor, vector: Float[Tensor, "K B D"]) -> Float[Tensor, "K B D"]:
    return root * vector if root.dim() == 2 else (root @ vector.unsqueeze(-1)).squeeze(-1)


def _solved(root: Tensor, vector: Float[Tensor, "K B D"]) -> Float[Tensor, "K B D"]:
    """root^-T vector."""
    if root.dim() == 2:
        return vector / root
    return torch.linalg.solve_triangular(root.mT, vector.unsqueeze(-1), upper=True).squeeze(-1)


def _diagonal(root: Tensor) -> Float[Tensor, "B D"]:
    return root if root.dim() == 2 else root.diagonal(dim1=-2, dim2=-1)

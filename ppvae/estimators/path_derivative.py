"""Path-derivative estimators: the model climbs by its own terms, the guide through its draws alone.

With weights a_k and c_k that are held fixed, the gradient of one datum is

    model:  sum_k a_k d log p(x, z_k) / d theta,
    guide:  sum_k c_k (d log w_k / d z_k) d z_k / d phi.

What the guide's parameters add through log q at fixed draws is left out: it has mean zero (stl), or its mean
is known as a path derivative and lies in c (dreg).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.errors import PairError
from ppvae.estimators.base import Claims, Estimator, Needs
from ppvae.estimators.paths import along_paths
from ppvae.graphs import graph_leaves
from ppvae.shapes import Float
from ppvae.terms import Terms
from ppvae.wrapped import innermost, support_ends


class PathDerivative(Estimator):
    """Base of the estimators whose guide learns through its draws alone; none by itself.

    Args:
        beta: weighs the rate in what is optimized; the reported bound has beta = 1.
    """

    needs = Needs(reparameterized=True, weights=True, leaves=True)
    claims = Claims(bound="lower")

    def __init__(self, particles: int = 5, beta: float = 1.0, sites: Mapping[str, str] | None = None):
        super().__init__(particles, sites)
        self.beta = beta

    def refuse(self, terms: Terms) -> None:
        super().refuse(terms)
        refuse_without_score(self, terms)
        if self.needs.weights:
            refuse_moving_points(self, terms)
            refuse_silent_draws(self, terms)


def refuse_without_score(estimator: Estimator, terms: Terms) -> None:
    """Raise PairError where grad log q(z | x) at fixed draws has no mean of zero, so that nothing may be left
    out: a relaxed draw, and a factor or a point whose density moves with the guide."""
    name = type(estimator).__name__
    for site in terms.sites.values():
        if site.how == "relaxed":
            raise PairError(
                f"{name} needs draws of the guide's own law, but {site.name!r} is relaxed: use elbo or iwae"
            )
        ends = support_ends(site.q) if site.path else []
        if any(moves_with_guide(end, terms) for end in ends):
            raise PairError(
                f"{name} leaves out the score of {site.name!r}, whose mean is not zero where the support of "
                f"its {type(innermost(site.q)).__name__} moves with the guide: use elbo or iwae"
            )
        if site.q is not None and moves_with_guide(_own_density(site.q), terms):
            raise PairError(
                f"{name} cannot take {site.name!r}, a {type(innermost(site.q)).__name__} whose density moves "
                "with the guide: write it as a TransformedDistribution, or use elbo or iwae"
            )


def refuse_moving_points(estimator: Estimator, terms: Terms) -> None:
    """Raise PairError for a point of the guide that moves with its parameters: it has no score for which the
    weights of a path derivative could stand, nor does it stay where it is held fixed."""
    for site in terms.sites.values():
        is_point = site.q is not None and type(innermost(site.q)).__name__ == "Delta"
        if is_point and any(moves_with_guide(drawn, terms) for _, drawn in site.path):
            raise PairError(
                f"{type(estimator).__name__} cannot take {site.name!r}, a point (Delta) that moves with the "
                "guide and is no draw: use elbo or iwae"
            )


def refuse_silent_draws(estimator: Estimator, terms: Terms) -> None:
    """Raise PairError for a latent that is masked where something still depends on it: its score is no part
    of log w there, for which the weights of a path derivative could stand.

    Reads numbers back, and so looks at the batch that is validated alone: the first.
    """
    if not (pyro.settings.get("validate_distributions_pyro") and torch.is_grad_enabled()):
        return
    for site in terms.sites.values():
        if site.law is None or site.log_q is None or site.law is site.log_q:
            continue
        leaves = [leaf for leaf, _ in site.path]
        log_weight, unheard = terms.log_weight.sum(), (site.law - site.log_q).sum()
        for felt, masked in zip(_slopes(log_weight, leaves), _slopes(unheard, leaves), strict=True):
            if ((felt != 0) & (masked != 0)).any():
                raise PairError(
                    f"{type(estimator).__name__} cannot take {site.name!r}, which is masked where something "
                    "still depends on it: mask that, too, or use iwae"
                )


def _slopes(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def _own_density(q: Any) -> Any:
    """What a point or a factor adds to log q, which is the density of no draw; None where q is another."""
    return getattr(innermost(q), "log_density", getattr(innermost(q), "log_factor", None))


def moves_with_guide(value: Any, terms: Terms) -> bool:
    """Whether a tensor depends on a parameter at fixed draws, which the terms have as leaves of the graph."""
    if not isinstance(value, Tensor):
        return False
    held = {id(leaf) for site in terms.sites.values() for leaf, _ in site.path}
    return any(id(leaf) not in held for leaf in graph_leaves([value]))


def log_model(
    terms: Terms, beta: Tensor | float = 1.0, without: Collection[str] = ()
) -> Float[Tensor, "K B"]:
    """What the model's parameters move in log w: log p(x, z), the rate's part weighed by `beta`; of all sites
    but those named by `without`.

    A latent that the model sums out counts with its own posterior r: log p - log r.
    """
    total = terms.log_likelihood
    for site in terms.of("local", "bound"):
        if site.name in without:
            continue
        total = total + beta * (site.log_ratio if site.how == "enumerate" else site.log_p)
    return total


def log_guide(terms: Terms, beta: Tensor | float = 1.0) -> Float[Tensor, "K B"]:
    """What is left of log w, with its sign turned: log q(z | x) of the latents that are drawn."""
    total = terms.log_likelihood.detach() * 0
    for site in terms.of("local", "bound"):
        if site.how != "enumerate" and site.log_q is not None:
            total = total + beta * site.log_q
    return total


def log_law(terms: Terms) -> Float[Tensor, "K B"]:
    """log of what the latents are drawn from: log q(z | x) without masks and scales."""
    total = terms.log_likelihood.detach() * 0
    for site in terms.of("local", "bound"):
        if site.law is not None:
            total = total + site.law
    return total


def path_loss(
    value: Float[Tensor, " B"],
    terms: Terms,
    log_weight: Float[Tensor, "K B"],
    model: Float[Tensor, "K B"],
    guide: Float[Tensor, "K B"],
    beta: Tensor | float = 1.0,
) -> Float[Tensor, ""]:
    """A loss of value -mean(`value`) whose gradient is that of the two weighted sums above.

    Args:
        log_weight: what is differentiated along the paths; `terms` are scored with leaves.
        model, guide: the weights a and c.
    """
    explicit = (model.detach() * log_model(terms, beta)).sum(0).mean()
    paths = along_paths(terms, (guide.detach() * log_weight).sum(0).mean())
    return surrogate_loss(value, explicit + paths)


def surrogate_loss(value: Float[Tensor, " B"], surrogate: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """A loss of value -mean(`value`) that falls where the surrogate rises."""
    return -(value.detach().mean() + surrogate - surrogate.detach())

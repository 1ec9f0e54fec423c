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

from torch import Tensor

from ppvae.errors import PairError
from ppvae.estimators.base import Claims, Estimator, Needs
from ppvae.estimators.paths import along_paths
from ppvae.estimators.relaxations import innermost
from ppvae.graphs import graph_leaves
from ppvae.shapes import Float
from ppvae.terms import Terms


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


def refuse_without_score(estimator: Estimator, terms: Terms) -> None:
    """Raise PairError where grad log q(z | x) at fixed draws has no mean of zero, so that nothing may be left
    out: a relaxed draw, and a factor or a point whose density moves with the guide."""
    name = type(estimator).__name__
    for site in terms.sites.values():
        if site.how == "relaxed":
            raise PairError(
                f"{name} needs draws of the guide's own law, but {site.name!r} is relaxed: use elbo or iwae"
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

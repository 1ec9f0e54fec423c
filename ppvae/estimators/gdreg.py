"""Doubly reparameterized gradients for the guide and for learned priors."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.errors import PairError
from ppvae.estimators.base import Knobs, knob
from ppvae.estimators.dreg import DReG
from ppvae.estimators.functionals import log_mean_exp
from ppvae.estimators.objective import Objective
from ppvae.estimators.path_derivative import log_guide, log_model, surrogate_loss
from ppvae.estimators.paths import along_paths
from ppvae.terms import Site, Terms
from ppvae.wrapped import innermost


class GDReG(DReG):
    """L_K(x) = E log (1/K) sum_k w_k as in `dreg`, where the gradient of a learned prior p(z_i | parents) is
    a path derivative, too: with v_k = w_k / sum_j w_j and z_i = T_i(e; parents, theta) the prior's own
    reparameterization at the guide's draw, e = T_i^-1(z_i; parents, theta) held fixed, the mean of the score

        sum_k v_k d log p(z_ki | parents) / d theta  is that of  sum_k c_ki d T_i(e_ki) / d theta,
        c_ki = v_k d/dz_ki (log p(x, z_k) - log p(z_ki | parents)) - v_k^2 d log w_k / d z_ki.

    For one layer that is v d log p(x | z) / dz - v^2 d log w / dz. Each derivative is partial, the other
    latents held fixed, and so is the score: it holds layer by layer, in whatever order model and guide draw.

    Lower bound; unbiased, value and gradient; the guide's gradient is that of `dreg`. Priors with parameters
    must be Normal (a location and a scale, also several dimensions by `to_event`); a prior without any needs
    nothing and may be of any kind.

    Knob: `beta` as in `dreg`.

    A mask on a latent must mask what depends on it, too; where it does not, the first batch is refused.

    Reference: Bauer & Mnih (2021), arXiv:2101.11046.
    """

    def refuse(self, terms: Terms) -> None:
        super().refuse(terms)
        for site in _learned(terms):
            family = type(innermost(site.p)).__name__
            if family != "Normal":
                raise PairError(
                    f"GDReG takes the learned prior of {site.name!r} by its location and scale, but it is a "
                    f"{family}: use dreg, or a Normal"
                )
            if len(site.path) > 1:
                raise PairError(
                    "GDReG scores all particles in one pass, which this pair does not allow (a BatchNorm, or "
                    "Pair(vectorize=False)): use dreg"
                )
            if len(site.p.batch_shape) + len(site.p.event_shape) > site.value.dim():
                raise PairError(
                    f"GDReG cannot take {site.name!r}, whose prior depends on a latent that is summed out: "
                    "use dreg"
                )

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        log_likelihood, log_ratio = terms.log_likelihood, terms.log_ratio
        log_weight = log_likelihood + beta * log_ratio
        weight = log_weight.detach().softmax(0)
        along = (1 - beta) * weight + beta * weight**2
        priors = _learned(terms)
        explicit = weight * log_model(terms, beta, without={site.name for site in priors})
        surrogate = explicit.sum(0).mean() + along_paths(terms, (along * log_weight).sum(0).mean())
        surrogate = surrogate + _along_priors(terms, priors, log_weight, weight, beta)
        loss = surrogate_loss(log_mean_exp(log_weight), surrogate)
        return Objective(log_mean_exp((log_likelihood + log_ratio).detach()), {"all": loss})


def _learned(terms: Terms) -> list[Site]:
    """The drawn latents whose prior has parameters, or parents."""
    if not torch.is_grad_enabled():
        return []
    drawn = [site for site in terms.of("local") if site.path and site.p is not None]
    return [site for site in drawn if site.p.log_prob(site.value.detach()).requires_grad]


def _along_priors(
    terms: Terms, priors: list[Site], log_weight: Tensor, weight: Tensor, beta: Tensor | float
) -> Tensor:
    """A scalar whose gradient is that of sum_i c_i T_i in the model's parameters."""
    surrogate = torch.zeros_like(log_weight.mean())
    if not priors:
        return surrogate
    # c = d(beta v)/dz + beta v d(log q - log p_i)/dz, where dv/dz = (v - v^2) d log w/dz.
    shared = beta * ((weight - weight**2) * log_weight + weight * log_guide(terms)).sum(0).mean()
    pulls = torch.autograd.grad(shared, [site.value for site in priors], retain_graph=True)
    for site, pull in zip(priors, pulls, strict=True):
        own = (beta * weight * site.log_p).sum(0).mean()
        (score,) = torch.autograd.grad(own, site.value, retain_graph=True)
        pull = pull - score
        normal = innermost(site.p)
        loc, scale = normal.loc, normal.scale  # type: ignore[attr-defined]
        noise = ((site.value - loc) / scale).detach()
        surrogate = surrogate + ((loc + scale * noise) * pull).sum()
    return surrogate

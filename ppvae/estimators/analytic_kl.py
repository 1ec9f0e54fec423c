"""The ELBO with each rate in closed form where one is known, Pyro's TraceMeanField_ELBO."""

from __future__ import annotations

from torch import Tensor

from ppvae.errors import PairError
from ppvae.estimators.elbo import ELBO
from ppvae.terms import Site, Terms


class AnalyticKL(ELBO):
    """L(x) = E_q[log p(x | z)] - sum_sites E_q[KL(q(z_i | parents), p(z_i | parents))].

    Lower bound; unbiased; usually, not always, of lower variance than the sampled ratio. Sites whose KL has
    no closed form, or that are points (Delta), keep log p - log q, as does what guide and model mask
    differently. Needs guide and model to draw the latents in one order: otherwise a site's prior depends on a
    draw that itself depends on the site, and the closed form is biased.

    Knobs: `beta`, `free_bits` as in `elbo`. Reference: Kingma & Welling (2014), appendix B.
    """

    def site_ratio(self, site: Site, terms: Terms) -> Tensor:
        kl = None if site.how == "enumerate" else site.analytic_kl()
        return super().site_ratio(site, terms) if kl is None else -kl

    def refuse(self, terms: Terms) -> None:
        super().refuse(terms)
        if terms.order_p != terms.order_q:
            raise PairError(
                f"analytic_kl needs one order of the latents, but the model draws "
                f"{list(terms.order_p)} and the guide {list(terms.order_q)}: reorder the guide, or use elbo"
            )

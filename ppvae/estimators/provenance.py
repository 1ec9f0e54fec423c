"""Which terms of log p - log q can depend on a latent's draw: what the orders of the draws prove.

The guide draws z_1, z_2, ..., and each distribution may depend on what was drawn before it. So log q(z_j)
knows nothing of z_i where j comes before i in the guide. The model scores its latents in an order of its own;
log p(z_j) knows the latents up to j in that order, hence nothing of z_i where all of those were drawn before
z_i. Nothing more is assumed: an observed term may depend on every latent.
"""

from __future__ import annotations

from ppvae.terms import Terms


def drawn_before(terms: Terms, name: str) -> set[str]:
    """The latents that the guide draws before `name`, those that only the guide has among them."""
    order = [site.name for site in terms.sites.values() if site.q is not None]
    return set(order[: order.index(name)])


def prior_is_known(terms: Terms, name: str) -> bool:
    """Whether p(z_name | ...) is fixed before z_name is drawn: its parents in the model are drawn earlier.

    Otherwise the expectation over z_name alone, such as KL(q, p) in closed form, is none of the bound's.
    """
    order = terms.order_p
    return name in order and set(order[: order.index(name)]) <= drawn_before(terms, name)


def independent_of(terms: Terms, name: str) -> tuple[set[str], set[str]]:
    """(latents whose log p, latents whose log q) cannot depend on the draw of `name`.

    Nobody's where some site is summed out: its posterior given all else connects every term with every draw.
    """
    if any(site.how == "enumerate" for site in terms.sites.values()):
        return set(), set()
    before = drawn_before(terms, name)
    known: set[str] = set()
    for other in terms.order_p:
        if other not in before:
            break
        known.add(other)
    return known, before

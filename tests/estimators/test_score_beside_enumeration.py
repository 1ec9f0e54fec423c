"""A latent told to be drawn by the score function, given one that the guide enumerates, is refused."""

import pytest

from ppvae import registry
from ppvae.build import build
from ppvae.errors import PairError
from ppvae.estimators import find
from tests.toys import made


def test_a_choice_by_site_cannot_hide_what_has_no_score_term():
    """E_c[log w] E_c[grad log q(z | c)] is not E_c[log w grad log q(z | c)], whoever chose the score."""
    pair = registry.find("conjugate_mixture")
    built, batch = build(pair), made("conjugate_mixture")[1]
    find("elbo:c=enumerate")(built)(batch)
    with pytest.raises(PairError, match="enumerate both, or neither"):
        find("elbo:c=enumerate,z=score")(built)(batch)

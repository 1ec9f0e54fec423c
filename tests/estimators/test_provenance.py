"""What the orders of guide and model prove about who depends on whom."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import pytest

from ppvae.estimators.provenance import drawn_before, independent_of, prior_is_known
from tests.estimators.discrete_toys import layers, rows
from tests.toys import bernoulli_toy, ones

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("order", "before", "log_p", "known"),
    [
        # latent: those drawn before it; whose log p cannot know it; is its prior known when it is drawn
        ("downward", {"z3": "", "z2": "3", "z1": "32"}, {"z3": "", "z2": "3", "z1": "32"}, "123"),
        ("upward", {"z1": "", "z2": "1", "z3": "12"}, {"z1": "", "z2": "", "z3": ""}, "3"),
        ("mixed", {"z2": "", "z3": "2", "z1": "23"}, {"z2": "", "z3": "", "z1": "23"}, "13"),
    ],
)
def test_against_the_orders(order, before, log_p, known):
    """The model draws z3, z2, z1."""
    terms = layers(order).score(rows())
    for name in ("z1", "z2", "z3"):
        assert drawn_before(terms, name) == {f"z{i}" for i in before[name]}
        assert independent_of(terms, name) == ({f"z{i}" for i in log_p[name]}, drawn_before(terms, name))
        assert prior_is_known(terms, name) == (name[1] in known)


def test_a_sum_connects_everything():
    built = layers()
    terms = built.score(rows(), enumerated=("z1",))
    assert independent_of(terms, "z2") == (set(), set())
    assert independent_of(bernoulli_toy().score(ones(2)), "z") == (set(), set())

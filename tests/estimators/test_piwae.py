"""Two targets of the same draws: the model's part is iwae's, the guide's is miwae's."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppvae.build import build
from ppvae.estimators import IWAE, MIWAE, PIWAE
from ppvae.pair import Pair
from tests.test_proof_pairs import make
from tests.toys import MLP_VAE, assert_same, bits, loss_and_gradients

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("name", ["mlp", "conditional_two_layer:PAIR", "sequence:PAIR", "mixture:PAIR"])
def test_each_part_follows_its_own_bound(name, beta):
    """Exact to 1e-9 under one seed, M = 3, K = 4: value and the model's gradient are those of iwae with 12
    draws, the guide's gradient that of miwae."""
    built, batch = (build(MLP_VAE), bits()) if name == "mlp" else make(name)[1:]
    value, tight = loss_and_gradients(IWAE(12, beta=beta), built, batch)
    _, apart = loss_and_gradients(MIWAE(4, groups=3, beta=beta), built, batch)
    found, ours = loss_and_gradients(PIWAE(4, groups=3, beta=beta), built, batch)
    torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)
    model = {n for n in ours if n.startswith("model")}
    assert_same({n: ours[n] for n in model}, {n: tight[n] for n in model})
    guide = ours.keys() - model
    assert_same({n: ours[n] for n in guide}, {n: apart[n] for n in guide})
    assert max((tight[n] - apart[n]).abs().max() for n in guide) > 1e-3
    torch.manual_seed(0)
    bound = PIWAE(4, groups=3, beta=beta).estimate(built, batch).bound
    torch.manual_seed(0)
    torch.testing.assert_close(bound, IWAE(12).estimate(built, batch).bound, rtol=1e-9, atol=1e-9)


class Shared(nn.Module):
    """Model and guide of one module, with one parameter in both."""

    def __init__(self, shared=None):
        super().__init__()
        self.loc, self.gain = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.8))
        self.shared = shared or [self.loc, self.loc]

    def model(self, x=None, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.shared[0], 1.0))
            pyro.sample("x", dist.Normal(self.gain * z, 1.0), obs=x)

    def guide(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.shared[1] + 0.4 * x, 0.7))


def test_a_shared_parameter_gets_the_sum_of_its_parts():
    """Exact to 1e-9: model and guide are methods of one module and share a parameter; its gradient is the
    model's part plus the guide's, told apart by two separate parameters of the same value."""
    batch = {"x": torch.randn(5)}
    _, joint = loss_and_gradients(PIWAE(2, groups=3), build(Pair(model=Shared, data=None)), batch)
    built = build(Pair(model=Shared, data=None))
    built.module.second = nn.Parameter(torch.tensor(0.3))
    built.module.shared = [built.module.loc, built.module.second]
    _, split = loss_and_gradients(PIWAE(2, groups=3), built, batch)
    names = {name.rsplit(".")[-1]: name for name in split}
    parts = split[names["loc"]], split[names["second"]]
    assert min(part.abs() for part in parts) > 1e-3
    shared = next(g for n, g in joint.items() if n.endswith("loc"))
    torch.testing.assert_close(shared, sum(parts), rtol=1e-9, atol=1e-9)

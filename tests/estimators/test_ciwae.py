"""The mix of ELBO and importance-weighted bound: its ends, and that it is linear."""
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import pytest
import torch

from ppvae.build import build
from ppvae.estimators import CIWAE, ELBO, IWAE
from tests.toys import MLP_VAE, assert_same, bits, loss_and_gradients

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_is_the_mix_under_one_seed(share, beta):
    """Exact to 1e-9: share 0 is iwae, 1 the ELBO, and between them loss, bound and gradients are linear."""
    built, batch = build(MLP_VAE), bits()
    elbo, elbo_found = loss_and_gradients(ELBO(4, beta=beta), built, batch)
    iwae, iwae_found = loss_and_gradients(IWAE(4, beta=beta), built, batch)
    loss, found = loss_and_gradients(CIWAE(4, share=share, beta=beta), built, batch)
    torch.testing.assert_close(loss, share * elbo + (1 - share) * iwae, rtol=1e-9, atol=1e-9)
    assert_same(found, {n: share * elbo_found[n] + (1 - share) * iwae_found[n] for n in found})
    bounds = []
    for estimator in (ELBO(4), IWAE(4), CIWAE(4, share=share, beta=beta)):
        torch.manual_seed(0)
        bounds.append(estimator.estimate(built, batch).bound)
    wanted = share * bounds[0] + (1 - share) * bounds[1]
    torch.testing.assert_close(bounds[2], wanted, rtol=1e-9, atol=1e-9)

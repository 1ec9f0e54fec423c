"""For every test: one thread, one seed, Pyro's store emptied; array annotations checked where jaxtyping is
installed."""

try:
    from beartype import BeartypeConf, beartype
    from jaxtyping import install_import_hook
except ImportError:
    pass
else:
    # An int is a float, as type checkers have it.
    checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
    # Before the first import of ppvae, or the hook comes too late.
    install_import_hook(
        [
            "ppvae.terms",
            "ppvae.scoring",
            "ppvae.estimators",
            "ppvae.contraction",
            "ppvae.nets",
            "ppvae.distributions",
        ],
        f"{__name__}.checked",
    )

import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state and leaves the global settings as it found them."""
    dtype, validation = torch.get_default_dtype(), pyro.settings.get("validate_distributions_pyro")
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(dtype)
    pyro.enable_validation(validation)


@pytest.fixture
def float64():
    """Double precision for the test: laws are held to 1e-9."""
    torch.set_default_dtype(torch.float64)

"""bf16 in the nets and float32 everywhere else: a stated error, and nothing that is rounded twice."""

from typing import Any

import pytest
import torch
from torch import nn

from ppvae import TrainConfig, registry
from ppvae.build import build
from ppvae.engine import EagerStep, GraphStep
from ppvae.engine.precision import nets_in
from ppvae.errors import UsageError
from ppvae.estimators import ELBO, find
from tests.toys import MLP_VAE, bits

BATCH = {"x": (torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.2).float()}


class Watched(ELBO):
    """Keeps what it was given."""

    terms: Any = None

    def objective(self, terms, knobs):
        self.terms = terms
        return super().objective(terms, knobs)


def gradients(name: str, precision: str, estimator="elbo", **sizes):
    """(loss, one vector of all gradients, the terms) under one seed."""
    made = Watched(3) if estimator == "watched" else find(estimator)
    built = build(registry.find(name), **sizes)
    step = EagerStep(built, made, TrainConfig(precision=precision))  # type: ignore[arg-type]
    torch.manual_seed(1)
    scalars, found = step.differentiate(BATCH, {})
    assert all(gradient.dtype == torch.float32 for _, gradient in found)
    kept: Any = made
    return float(scalars["loss"]), torch.cat([g.flatten() for _, g in found]), kept


@pytest.mark.parametrize("name", ["vae", "conv_vae"])
@pytest.mark.parametrize("estimator", ["elbo", "iwae:particles=5"])
def test_the_error_of_bf16(name, estimator):
    """With equal noise: the loss within 1e-3, the gradient within 3 % in L2, its cosine above .9995.

    A rounded product takes another side of a ReLU now and then, which is most of the error."""
    loss, exact, _ = gradients(name, "float32", estimator)
    rounded_loss, rounded, _ = gradients(name, "bf16", estimator)
    assert rounded_loss == pytest.approx(loss, rel=1e-3)
    assert rounded_loss != loss
    assert float((rounded - exact).norm() / exact.norm()) < 0.03
    assert float(torch.cosine_similarity(rounded, exact, dim=0)) > 0.9995


def test_log_probabilities_are_float32_and_computed_so():
    """In bf16 a sum of 784 terms would be a multiple of 4 near 500; ours differ by less."""
    _, _, made = gradients("vae", "bf16", "watched")
    for site in made.terms.sites.values():
        assert site.log_p.dtype == torch.float32
        assert site.value.dtype == torch.float32
    log_p = made.terms.sites["x"].log_p.detach()
    assert not torch.equal(log_p.to(torch.bfloat16).float(), log_p)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.gru = nn.Linear(4, 3), nn.GRU(3, 2, batch_first=True)

    def forward(self, x):
        return self.gru(self.first(x))


def test_what_multiplies_is_cast_and_cast_back():
    net, seen = Net(), []
    net.first.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    x = torch.randn(2, 5, 4)
    plain = net(x)[0]
    with nets_in("bf16", torch.device("cpu"), net):
        output, state = net(x)
    assert seen == [torch.float32, torch.float32]
    assert output.dtype == state.dtype == torch.float32
    assert not torch.equal(output, plain)
    assert torch.allclose(output, plain, atol=0.02)
    assert torch.equal(net(x)[0], plain)  # as before
    assert "forward" not in net.first.__dict__


def test_replayed_it_is_bit_equal_and_compiled_close():
    states = []
    ways: list[tuple[type[EagerStep], dict[str, Any]]] = [(EagerStep, {}), (GraphStep, {"compile": False})]
    for kind, options in ways:
        built = build(MLP_VAE)
        step = kind(built, find("iwae:particles=3"), TrainConfig(precision="bf16"), **options)
        torch.manual_seed(0)
        for i in range(10):
            step(bits(seed=i), {})
        states.append(built.state_dict())
    assert isinstance(step, GraphStep)
    assert step.reason is None
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_has_no_such_precision():
    with pytest.raises(UsageError, match="precision=tf32 is of GPUs"):
        EagerStep(build(MLP_VAE), find("elbo"), TrainConfig(precision="tf32"))
    with pytest.raises(UsageError, match="precision=bf16 is for float32, and the data are float64"):
        EagerStep(build(MLP_VAE).double(), find("elbo"), TrainConfig(precision="bf16"))
    with pytest.raises(UsageError, match="no precision 'bf61', did you mean 'bf16'"):
        TrainConfig(precision="bf61")  # type: ignore[arg-type]

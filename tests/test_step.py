"""One training step: no host synchronization, and every parameter moved by its own group's loss alone."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae import TrainConfig, registry
from ppvae.build import build
from ppvae.data import Dataset, Split
from ppvae.engine import EagerStep
from ppvae.errors import PairError
from ppvae.estimators import ELBO, Estimator, Objective, find
from ppvae.pair import Pair
from tests.toys import MLP, MLP_VAE, Encoder, bits

PROOFS = Path(__file__).parent / "proof_pairs"
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "masked_select", "_assert_async")


class Waits(TorchDispatchMode):
    """Collects the operations that ask the device for a number."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name.startswith((*WAITS, "unique")) or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def step_of(built, estimator: Estimator | str = "elbo", **options):
    found = find(estimator) if isinstance(estimator, str) else estimator
    return EagerStep(built, found, TrainConfig(**options))


def test_the_counter_sees_what_waits():
    with Waits() as waits:
        torch.ones(3).sum().item()
        bool(torch.ones(()) > 0)
        torch.ones(3)[torch.tensor([True, False, True])]
    assert waits.found == ["_local_scalar_dense", "_local_scalar_dense", "index"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(
    ("name", "estimator", "sizes"),
    [
        ("vae", "elbo", {"latent": 2, "hidden": [5]}),
        ("vae", "iwae:particles=3", {"latent": 2, "hidden": [5]}),
        ("vae", "analytic_kl", {"latent": 2, "hidden": [5]}),
        ("ppca_mean_field", "elbo:free_bits=0.1", {"x_shape": (1, 28, 28)}),
        ("ppca_full", "elbo", {"x_shape": (1, 28, 28)}),
    ],
)
def test_a_whole_step_never_waits_for_the_device(name, estimator, sizes, optimizer):
    """After the first batch, which Pyro validates: score, gradients, clipping, warm-up and the optimizer."""
    built = build(registry.find(name), **sizes)
    step = step_of(
        built, estimator, optimizer=optimizer, clip_norm=1.0, weight_decay=0.01, lr_groups={"guide": 0.01}
    )
    batch = {"x": torch.rand(8, 1, 28, 28).round()}
    knobs = {"beta": torch.tensor(0.5)}
    step(batch, knobs, 1.0)
    with Waits() as waits:
        scalars = step(batch, knobs, 0.5)
    assert waits.found == []
    assert all(isinstance(value, torch.Tensor) and value.shape == () for value in scalars.values())
    assert not any(value.requires_grad for value in scalars.values())


def test_taking_a_batch_never_waits_either():
    split = Split({"x": torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)}, {"x": 255}, dynamic=True)
    index = torch.randperm(50)[:8]
    with Waits() as waits:
        split.batch(index)
    assert waits.found == []


def test_the_first_batch_is_validated_and_later_ones_are_not():
    """A Bernoulli refuses 0.5 under Pyro's validation."""
    built = build(MLP_VAE)
    grey = {"x": torch.full((4, 6), 0.5)}
    with pytest.raises((ValueError, PairError), match="within the support"):
        step_of(built)(grey, {})
    step = step_of(built)
    step(bits(4), {})
    step(grey, {})


def state(built):
    return {name: value.clone() for name, value in built.state_dict().items()}


class OnlyGuide(Estimator):
    """A loss for the group `guide` alone, which the model's parameters enter, too."""

    group = "guide"

    def objective(self, terms, knobs):
        return Objective(None, {self.group: -terms.log_weight.mean()})


class OnlyModel(OnlyGuide):
    group = "model"


@pytest.mark.parametrize("cls", [OnlyGuide, OnlyModel])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_parameters_without_a_loss_stay_bit_equal(cls, weight_decay):
    built = build(MLP_VAE)
    before = state(built)
    step = step_of(built, cls(), weight_decay=weight_decay)
    for _ in range(3):
        step(bits(), {})
    moved = {
        name.split(".")[0] for name, value in state(built).items() if not torch.equal(value, before[name])
    }
    assert moved == {cls.group}


class TwoLosses(Estimator):
    """Of opposite signs: each group climbs what the other descends."""

    def objective(self, terms, knobs):
        value = terms.log_weight.mean()
        return Objective(None, {"model": -value, "guide": value})


def test_each_group_follows_its_own_loss():
    """SGD's first step is -lr times the gradient of the group's loss: exactly, for all parameters."""
    built = build(MLP_VAE)
    before = state(built)
    torch.manual_seed(0)
    value = built.score(bits()).log_weight.mean()
    named = dict(built.named_parameters())
    wanted = dict(zip(named, torch.autograd.grad(value, list(named.values())), strict=True))
    torch.manual_seed(0)
    scalars = step_of(built, TwoLosses(), optimizer="sgd", lr=0.1)(bits(), {})
    for name, parameter in named.items():
        sign = 1.0 if name.startswith("model") else -1.0
        torch.testing.assert_close(parameter.detach(), before[name] + sign * 0.1 * wanted[name])
    assert {"loss", "loss/model", "loss/guide", "elbo"} <= scalars.keys()


def test_a_further_group_is_moved_by_its_penalty_alone():
    pair = registry.find(f"{PROOFS / 'critic'}.py:PAIR")
    batch = {"x": torch.randn(16, 4)}
    built = build(pair, Dataset(name="toy", train=Split(batch)))
    named = dict(built.named_parameters())
    critic = {name for name in named if name.startswith("model.critic")}
    before = state(built)
    torch.manual_seed(0)
    terms = built.score(batch)
    wanted = torch.autograd.grad(terms.penalties["critic"].value, [named[name] for name in sorted(critic)])
    torch.manual_seed(0)
    step_of(built, optimizer="sgd", lr=0.1)(batch, {})
    for name, gradient in zip(sorted(critic), wanted, strict=True):
        torch.testing.assert_close(named[name].detach(), before[name] - 0.1 * gradient)


def test_the_gradients_are_cleared():
    built = build(MLP_VAE)
    step = step_of(built)
    for parameter in built.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)  # what somebody left behind is not added
    before = state(built)
    step(bits(), {})
    assert all(parameter.grad is None for parameter in built.parameters())
    assert max(float((v - before[n]).abs().max()) for n, v in state(built).items()) < 2e-3


class Averaging(ELBO):
    """Owns a parameter, which is trained, and a buffer."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(1.0))
        self.register_buffer("count", torch.zeros(()))

    def objective(self, terms, knobs):
        self.count += 1
        found = super().objective(terms, knobs)
        return Objective(found.bound, {**found.losses, "estimator": self.offset**2})


def test_an_estimators_own_parameters_are_a_group():
    estimator = Averaging()
    step = step_of(build(MLP_VAE), estimator, optimizer="sgd", lr=0.1)
    assert set(step.updates.groups) == {"model", "guide", "estimator"}
    step(bits(), {})
    assert float(estimator.offset) == pytest.approx(0.8)
    assert float(estimator.count) == 1.0


def test_a_frozen_net_stays_and_the_rest_trains():
    class Frozen(MLP):
        def __init__(self):
            super().__init__()
            self.decoder.requires_grad_(False)

    built = build(Pair(model=Frozen, guide=Encoder, data=None))
    before = state(built)
    step = step_of(built)
    assert set(step.updates.groups) == {"guide"}
    step(bits(), {})
    moved = {
        name.split(".")[0] for name, value in state(built).items() if not torch.equal(value, before[name])
    }
    assert moved == {"guide"}
    with pytest.raises(PairError, match="no trainable parameter"):
        step_of(built.requires_grad_(False))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adamax", "rmsprop", "sgd"])
def test_a_gradient_laid_out_otherwise_moves_the_right_entries(optimizer):
    """Exact signs: autograd's gradient of W.T lies in memory as the transpose does, and fused Adam goes
    through memory. The loss is (W.T * A).sum(), so that each entry of W moves against that of A.T."""

    built, moved = build(MLP_VAE), torch.nn.Parameter(torch.zeros(2, 3))
    built.model.register_parameter("weight", moved)

    class Laid(Estimator):
        def objective(self, terms, knobs):
            a = torch.tensor([[1.0, 2.0], [-3.0, 4.0], [5.0, -6.0]])
            return Objective(None, {"all": (moved.T * a).sum()})

    step_of(built, Laid(), optimizer=optimizer, lr=0.1)(bits(), {})
    wanted = -torch.tensor([[1.0, -3.0, 5.0], [2.0, 4.0, -6.0]]).sign()
    assert torch.equal(moved.detach().sign(), wanted)

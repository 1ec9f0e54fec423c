"""State in two parts, tensors and JSON: put together again bit for bit, so that training goes on."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ppvae import checkpoint
from ppvae.errors import UsageError
from ppvae.state import capture_generators, flatten, restore_generators, unflatten
from tests.bits import any_tensor, same

any_key = st.integers() | st.text("@.ab1", max_size=6) | st.booleans() | st.none()
any_tree = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | any_tensor,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(any_key, inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(tree=any_tree)
def test_flattening_has_an_exact_inverse(tree):
    tensors, rest = flatten(tree)
    text = json.dumps(rest)
    assert same(unflatten(tensors, json.loads(text)), tree)


def test_what_cannot_be_kept_is_refused_by_name():
    with pytest.raises(UsageError, match=r"groups\.0 is a object"):
        flatten({"groups": [object()]})


# ---- training goes on as if it had never stopped

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), amsgrad=True, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "sgd_plain": lambda p: torch.optim.SGD(p, lr=1e-2),
}


class Course:
    """A small training whose every step draws from all generators."""

    def __init__(self, name: str, seed: int):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        groups = [
            {"params": self.net[0].parameters()},
            {"params": [*self.net[1].parameters(), *self.net[3].parameters()]},
        ]
        self.optimizer = OPTIMIZERS[name](groups)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    def go(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            x = torch.randn(6, 5) + float(np.random.standard_normal()) + random.gauss(0, 1)
            loss = self.net(x).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
        return losses

    def save(self, folder: Path) -> Path:
        flat, optimizer = flatten(self.optimizer.state_dict())
        schedule_flat, schedule = flatten(self.schedule.state_dict())
        generators, rest = capture_generators()
        tensors = {f"net/{name}": t for name, t in self.net.state_dict().items()}
        for prefix, part in (("optimizer/", flat), ("schedule/", schedule_flat), ("generators/", generators)):
            tensors |= {prefix + name: t for name, t in part.items()}
        state = {"optimizer": optimizer, "schedule": schedule, "generators": rest}
        return checkpoint.save(folder, 5, tensors, state)

    def restore(self, path: Path) -> None:
        tensors, state = checkpoint.load(path)

        def part(prefix):
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        self.net.load_state_dict(part("net/"))
        self.optimizer.load_state_dict(unflatten(part("optimizer/"), state["optimizer"]))
        self.schedule.load_state_dict(unflatten(part("schedule/"), state["schedule"]))
        restore_generators(part("generators/"), state["generators"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_and_five_are_ten(tmp_path, name):
    whole = Course(name, seed=0)
    losses = whole.go(10)
    first = Course(name, seed=0)
    assert first.go(5) == losses[:5]
    path = first.save(tmp_path)
    second = Course(name, seed=99)
    second.go(2)
    second.restore(path)
    assert same(first.optimizer.state_dict(), second.optimizer.state_dict())
    assert second.go(5) == losses[5:]
    assert same(whole.net.state_dict(), second.net.state_dict())
    assert same(whole.optimizer.state_dict(), second.optimizer.state_dict())


def test_capturing_the_generators_draws_nothing():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    random.gauss(0, 1)
    np.random.standard_normal()  # both keep a spare normal now
    tensors, rest = capture_generators()

    def draw():
        return (
            torch.rand(3).tolist(),
            np.random.standard_normal(3).tolist(),
            [random.gauss(0, 1) for _ in range(3)],
        )

    first = draw()
    restore_generators(tensors, json.loads(json.dumps(rest)))
    assert draw() == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_generators_and_tensors_come_back(tmp_path):
    torch.cuda.manual_seed(3)
    on_gpu = torch.rand(4, device="cuda")
    tensors, rest = capture_generators()
    first = torch.rand(4, device="cuda")
    found, state = checkpoint.load(
        checkpoint.save(tmp_path, 1, {**tensors, "x": on_gpu}, {"generators": rest})
    )
    restore_generators(found, state["generators"])
    assert torch.equal(torch.rand(4, device="cuda"), first)
    assert torch.equal(found["x"], on_gpu.cpu())

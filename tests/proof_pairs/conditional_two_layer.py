"""A conditional two-layer VAE: a label is given, two latents are inferred bottom-up.

    z2 ~ N(0, I)                        z2: (B, 2)
    z1 | z2, y ~ N(A z2 + e[y], s1^2)   z1: (B, 3)
    x | z1, y ~ N(C z1 + f[y], s0^2)    x: (B, 4)

Guide: q(z1 | x, y) q(z2 | z1, y), in the order opposite to the model's.
"""
# pyright: reportArgumentType=false

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from ppvae.pair import Pair

CLASSES = 3


class TwoLayers(PyroModule):
    def __init__(self, x_shape=(4,), y_classes=CLASSES):
        super().__init__()
        self.up = nn.Linear(2, 3)
        self.out = nn.Linear(3, x_shape[0])
        self.shift1 = nn.Embedding(y_classes, 3)
        self.shift0 = nn.Embedding(y_classes, x_shape[0])
        self.scale1 = PyroParam(torch.tensor(0.7), constraints.positive)
        self.scale0 = PyroParam(torch.tensor(0.5), constraints.positive)

    def forward(self, x=None, *, y, n=None):
        with pyro.plate("data", len(y), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.up(z2) + self.shift1(y), self.scale1).to_event(1))
            return pyro.sample(
                "x", dist.Normal(self.out(z1) + self.shift0(y), self.scale0).to_event(1), obs=x
            )


class BottomUp(PyroModule):
    def __init__(self, model: TwoLayers):
        super().__init__()
        size = model.out.out_features
        self.first = nn.Linear(size + CLASSES, 6)
        self.second = nn.Linear(3 + CLASSES, 4)

    def forward(self, x, *, y, n=None):
        one_hot = torch.eye(CLASSES)[y]  # nn.functional.one_hot would wait for the device
        with pyro.plate("data", len(y), dim=-1):
            loc, raw = self.first(torch.cat([x, one_hot], -1)).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, raw.exp()).to_event(1))
            beside = one_hot.expand(*z1.shape[:-1], CLASSES)
            loc, raw = self.second(torch.cat([z1, beside], -1)).chunk(2, -1)
            pyro.sample("z2", dist.Normal(loc, raw.exp()).to_event(1))


PAIR = Pair(model=TwoLayers, guide=BottomUp, data=None, conditions=("y",), latent="z1, z2: reals, given y")


def data(n=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.get_default_dtype())
    return {"x": x, "y": torch.randint(CLASSES, (n,), generator=generator)}

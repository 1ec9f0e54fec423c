"""A pair of one's own: a model and a guide in plain Pyro, trained by IWAE and evaluated.

Run it from top to bottom: `python examples/own_pair.py`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

import ppvae


class Model(PyroModule):  # p(x, z) = N(z; 0, 1) N(x; decoder(z), 1/4)
    def __init__(self, x_shape):
        super().__init__()
        self.decoder = torch.nn.Linear(1, x_shape[0])

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):  # q(z | x) = N(z; loc(x), scale(x)^2)
    def __init__(self, model, x_shape):
        super().__init__()
        self.encoder = torch.nn.Linear(x_shape[0], 2)

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


x = torch.randn(2000, 1) @ torch.tensor([[2.0, -1.0, 0.5]]) + 0.5 * torch.randn(2000, 3)
trained = ppvae.fit(ppvae.Pair(model=Model, guide=Guide), x, "iwae:particles=5", epochs=50, lr=1e-2)
print(trained.evaluate(k=1000)["log_likelihood"], "nats per datum")
print(trained.generate(n=4))

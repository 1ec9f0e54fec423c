"""`for i in pyro.plate("data", ...)`, as in the first SVI tutorial: one pair of sites per row.

Legal in stock Pyro, slow, and the field `x` is scored by no site of its name: `x_0`, `x_1`, ... Fix:
`with pyro.plate("data", rows, dim=-1)` and one vectorized statement per variable.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

from ppvae.pair import Pair


class Model(PyroModule):  # <- here
    def __init__(self, x_shape=(20,), z_dim=4):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(nn.Linear(z_dim, 32), nn.Tanh(), nn.Linear(32, x_shape[0]))

    def forward(self, x=None, *, n=None):  # <- here
        rows = n if x is None else x.shape[0]
        draws = []
        for i in pyro.plate("data", rows):  # <- here
            z = pyro.sample(f"z_{i}", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))  # <- here
            row = None if x is None else x[i]
            likelihood = dist.Normal(self.decoder(z), 0.5).to_event(1)
            draws.append(pyro.sample(f"x_{i}", likelihood, obs=row))  # <- here
        return torch.stack(draws)


class Guide(PyroModule):
    def __init__(self, model, x_shape=(20,)):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(x_shape[0], 32), nn.Tanh(), nn.Linear(32, 2 * model.z_dim))

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        for i in pyro.plate("data", x.shape[0]):  # <- here
            pyro.sample(f"z_{i}", dist.Normal(loc[i], softplus(raw[i])).to_event(1))  # <- here


PAIR = Pair(model=Model, guide=Guide, data=None)  # <- here


def data() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(64, 20, generator=torch.Generator().manual_seed(0))}


EXPECT = {
    "says": [
        r"\bx(_\d+)?\b|\bz(_\d+)?\b|data|plate",
        r"sequential|vectoriz|plate|loop|scored|site|dim|\bfor\b",
    ],
    "fix": ["with pyro|with plate|`with`|vectori|dim|rename|name"],
}

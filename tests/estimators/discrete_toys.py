"""Pairs with discrete latents, small enough that every joint state can be visited."""
# pyright: reportTypedDictNotRequiredAccess=false

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppvae.build import build
from ppvae.built import Built
from ppvae.pair import Pair

BIT = torch.tensor([0.0, 1.0])


def rows(count: int = 3, size: int = 2, seed: int = 5) -> dict[str, Tensor]:
    return {"x": torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).to(torch.zeros(()))}


def spread(*modules: nn.Module, seed: int = 7) -> None:
    """Parameters away from symmetry."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in modules:
            for p in module.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))


class Layers(PyroModule):
    """z3 ~ B, z2 | z3 ~ B, z1 | z2 ~ B, x | z1, z3 ~ N: each latent one bit."""

    def __init__(self):
        super().__init__()
        self.top = nn.Parameter(torch.zeros(()))
        self.middle, self.low = nn.Linear(1, 1), nn.Linear(1, 1)
        self.out = nn.Linear(2, 2)
        spread(self)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z3 = pyro.sample("z3", dist.Bernoulli(logits=self.top))
            z2 = pyro.sample("z2", dist.Bernoulli(logits=self.middle(z3.unsqueeze(-1)).squeeze(-1)))
            z1 = pyro.sample("z1", dist.Bernoulli(logits=self.low(z2.unsqueeze(-1)).squeeze(-1)))
            loc = self.out(torch.stack(torch.broadcast_tensors(z1, z3), -1))
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Ordered(PyroModule):
    """q of the three bits in any order, each given x and those before it."""

    order = ("z3", "z2", "z1")

    def __init__(self, model: Layers):
        super().__init__()
        self.nets = nn.ModuleDict({name: nn.Linear(2 + i, 1) for i, name in enumerate(self.order)})
        spread(self, seed=8)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            before: list[Tensor] = []
            for name in self.order:
                given = torch.broadcast_tensors(x[:, 0], x[:, 1], *before)
                logits = self.nets[name](torch.stack(given, -1)).squeeze(-1)
                before.append(pyro.sample(name, dist.Bernoulli(logits=logits)))


class Upward(Ordered):
    order = ("z1", "z2", "z3")


class Mixed(Ordered):
    order = ("z2", "z3", "z1")


ORDERS = {"downward": Ordered, "upward": Upward, "mixed": Mixed}


def layers(order: str = "downward") -> Built:
    return build(Pair(model=Layers, guide=ORDERS[order], data=None))


class Codes(PyroModule):
    """z of any discrete prior, x | z ~ N(W z, 1)."""

    def __init__(self, kind: str = "bits"):
        super().__init__()
        self.kind = kind
        shape = {"bits": (6,), "onehots": (3, 4), "onehot": (3,), "classes": (5,), "class_pair": (2, 3)}[kind]
        self.logits = nn.Parameter(torch.zeros(shape))
        self.out = nn.Linear({"classes": 1, "class_pair": 2}.get(kind, self.logits.numel()), 2)
        spread(self)

    def law(self, logits: Tensor) -> Any:
        if self.kind == "bits":
            return dist.Bernoulli(logits=logits).to_event(1)
        if self.kind == "onehots":
            return dist.OneHotCategorical(logits=logits).to_event(1)
        if self.kind == "onehot":
            return dist.OneHotCategorical(logits=logits)
        return dist.Categorical(logits=logits).to_event(1 if self.kind == "class_pair" else 0)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.law(self.logits))
            z = z.unsqueeze(-1) if self.kind == "classes" else z
            z = z.flatten(-2) if self.kind == "onehots" else z
            loc = self.out(z.to(self.logits))
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class CodesGuide(PyroModule):
    def __init__(self, model: Codes):
        super().__init__()
        self.law, self.shape = model.law, model.logits.shape
        self.net = nn.Linear(2, model.logits.numel())
        spread(self, seed=8)

    def forward(self, x, *, n=None):
        logits = self.net(x).reshape(-1, *self.shape)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.law(logits))


def codes(kind: str, **pair: Any) -> Built:
    return build(Pair(model=Codes, guide=CodesGuide, data=None, **pair), kind=kind)


class Components(PyroModule):
    """c ~ OneHot(a), z | c ~ N(m_c, 1), x | z ~ N(z, 1)."""

    def __init__(self):
        super().__init__()
        self.logits, self.loc = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
        spread(self)

    def forward(self, x=None, *, n=None):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.OneHotCategorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal((c * self.loc).sum(-1), 1.0))
            return pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)


class ComponentFirst(PyroModule):
    """q(c | x) q(z | x, c)."""

    def __init__(self, model: Components):
        super().__init__()
        self.classify, self.locate = nn.Linear(1, 3), nn.Linear(1, 3)
        self.raw = nn.Parameter(torch.zeros(3))
        spread(self, seed=8)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.OneHotCategorical(logits=self.classify(x)))
            loc, scale = (c * self.locate(x)).sum(-1), (c * (0.3 * self.raw).exp()).sum(-1)
            pyro.sample("z", dist.Normal(loc, scale))


class ComponentLast(ComponentFirst):
    """q(z | x) q(c | x, z)."""

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.locate(x)[..., 0], (0.3 * self.raw[0]).exp()))
            given = z.unsqueeze(-1) * self.raw + self.locate(x)
            pyro.sample("c", dist.OneHotCategorical(logits=self.classify.weight.squeeze(-1) * given))


def components(guide: Any = ComponentFirst, **pair: Any) -> Built:
    return build(Pair(model=Components, guide=guide, data=None, **pair))


def product(count: int) -> Tensor:
    """All words of so many bits."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)))


def onehots(elements: int, classes: int) -> Tensor:
    """All values of so many one-hot vectors, (classes^elements, elements, classes)."""
    return torch.eye(classes)[torch.tensor(list(itertools.product(range(classes), repeat=elements)))]


def joint(built: Built, batch: dict[str, Tensor], **values: Tensor) -> tuple[Tensor, Tensor]:
    """(log p(x, s), log q(s | x)) per datum at one state of every latent, by Pyro's own traces."""
    count = len(batch["x"])
    given = {name: value.expand(count, *value.shape) for name, value in values.items()}
    found = []
    with built.local():
        for fn in (built.run_model, built.run_guide):
            trace = poutine.trace(poutine.condition(fn, data=given)).get_trace(**batch)
            trace.compute_log_prob()
            sites = [s for s in trace.nodes.values() if s["type"] == "sample" and s["name"] != "data"]
            found.append(sum(s["log_prob"] for s in sites))
    return found[0], found[1]


def by_sum(built: Built, batch: dict[str, Tensor], **supports: Tensor) -> tuple[Tensor, Tensor]:
    """(ELBO, log evidence) per datum: sums over every state, differentiable."""
    p, q = [], []
    for states in itertools.product(*supports.values()):
        log_p, log_q = joint(built, batch, **dict(zip(supports, states, strict=True)))
        p.append(log_p)
        q.append(log_q)
    log_p, log_q = torch.stack(p), torch.stack(q)
    return (log_q.exp() * (log_p - log_q)).sum(0), log_p.logsumexp(0)

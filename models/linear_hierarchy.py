"""A linear-Gaussian hierarchy of two layers, whose evidence, posterior and ELBO are known exactly.

    z2_b ~ N(0, I)                                  z2: (B, q2)
    z1_b ~ N(A z2_b + a, top_scale^2 I)             z1: (B, q1), A: (q1, q2)
    x_b  ~ N(W z1_b + mean, scale^2 I)              x: (B, D), W: (D, q1)

All is Gaussian: with C1 = A A' + top_scale^2 I, the law of z1,

    p(x)        = N(W a + mean, W C1 W' + scale^2 I)
    p(z1 | x)   = N(P1^-1 (C1^-1 a + W'(x - mean) / scale^2), P1^-1),   P1 = C1^-1 + W'W / scale^2
    p(z2 | z1)  = N(P2^-1 A'(z1 - a) / top_scale^2, P2^-1),             P2 = I + A'A / top_scale^2

and p(z1, z2 | x) = p(z1 | x) p(z2 | z1): given z1, x says nothing more about z2.

Reference: Tipping & Bishop (1999), Probabilistic Principal Component Analysis, JRSS B 61(3), for one layer;
Roweis & Ghahramani (1999), A Unifying Review of Linear Gaussian Models, Neural Computation 11(2).

Departures: z1 has a noise of its own, so that this p(x) is that of a pPCA with q1 codes and a prior C1: two
layers explain no more than one. They are here for estimators that chain gradients through layers.

Not to be confused with the linear dynamical system, whose chain runs over time.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.errors import UsageError


class LinearHierarchy(PyroModule):
    """p(x, z1, z2); x of any event shape is taken as a vector of D numbers.

    Args:
        x_shape: shape of one datum.
        latent: sizes of z1 and z2.

    Raises:
        UsageError: `latent` is not two sizes.
    """

    def __init__(self, x_shape: tuple[int, ...] = (10,), latent: Sequence[int] = (3, 2)):
        super().__init__()
        if len(latent) != 2:
            raise UsageError(f"latent={list(latent)}: give the sizes of z1 and z2, such as latent=[3,2]")
        self.x_shape, self.latent = tuple(x_shape), tuple(latent)
        size, (middle, top) = math.prod(x_shape), latent
        self.top_weight = nn.Parameter(torch.randn(middle, top) / math.sqrt(middle))
        self.top_mean = nn.Parameter(torch.zeros(middle))
        self.weight = nn.Parameter(torch.randn(size, middle) / math.sqrt(size))
        self.mean = nn.Parameter(torch.zeros(size))
        # softplus(0.5413) = 1: both noises start at the prior's own scale.
        self.raw_top_scale = nn.Parameter(torch.tensor(0.5413))
        self.raw_scale = nn.Parameter(torch.tensor(0.5413))

    @property
    def top_scale(self) -> Tensor:
        """Standard deviation of z1 given z2, a scalar."""
        return softplus(self.raw_top_scale)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of x given z1, a scalar."""
        return softplus(self.raw_scale)

    def forward(self, x=None, *, n=None):
        top_weight, top_mean, weight, mean = self.top_weight, self.top_mean, self.weight, self.mean
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(weight.new_zeros(self.latent[1]), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ top_weight.T + top_mean, self.top_scale).to_event(1))
            loc = (z1 @ weight.T + mean).unflatten(-1, self.x_shape)
            return pyro.sample("x", dist.Normal(loc, self.scale).to_event(len(self.x_shape)), obs=x)

    def flat(self, x: Tensor) -> Tensor:
        """x as vectors, (B, D)."""
        return x.flatten(-len(self.x_shape))

    def middle(self) -> dist.MultivariateNormal:
        """p(z1) = N(a, A A' + top_scale^2 I)."""
        noise = self.top_scale**2 * torch.eye(self.latent[0]).to(self.top_weight)
        return dist.MultivariateNormal(self.top_mean, self.top_weight @ self.top_weight.T + noise)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of each datum in nats, (B,)."""
        prior = self.middle()
        loc = self.weight @ prior.loc + self.mean
        noise = self.scale**2 * torch.ones_like(self.mean)
        factor = self.weight @ prior.scale_tril
        return dist.LowRankMultivariateNormal(loc, factor, noise).log_prob(self.flat(x))

    def posterior_z1(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z1 | x), exactly, of batch shape (B,)."""
        prior = self.middle()
        precision = prior.precision_matrix + self.weight.T @ self.weight / self.scale**2
        pull = (self.flat(x) - self.mean) @ self.weight / self.scale**2 + prior.precision_matrix @ prior.loc
        loc = torch.linalg.solve(precision, pull.mT).mT
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def posterior_z2(self, z1: Tensor) -> dist.MultivariateNormal:
        """p(z2 | z1) = p(z2 | z1, x), exactly, of z1's batch shape."""
        eye = torch.eye(self.latent[1]).to(self.top_weight)
        precision = eye + self.top_weight.T @ self.top_weight / self.top_scale**2
        pull = (z1 - self.top_mean) @ self.top_weight / self.top_scale**2
        loc = torch.linalg.solve(precision, pull.mT).mT
        return dist.MultivariateNormal(loc, precision_matrix=precision)


def evidence(model: LinearHierarchy, batch) -> Tensor:
    """log p(x) of a batch, (B,), in nats."""
    return model.log_evidence(batch["x"])


def posterior(model: LinearHierarchy, batch) -> dict:
    """The exact p(z1 | x), and p(z2 | z1) as a function of the value of z1."""
    return {"z1": model.posterior_z1(batch["x"]), "z2": lambda values: model.posterior_z2(values["z1"])}


def elbo(model: LinearHierarchy, guide: Any, batch) -> Tensor:
    """The exact ELBO, (B,), in nats, of a guide with q(z1 | x) = N(m1, S1), q(z2 | z1) = N(U z1 + u, S2).

    Each layer's error is Gaussian under q, of known mean and covariance; E|e|^2 = |E e|^2 + tr cov e:

        z2                 U m1 + u                      U S1 U' + S2
        z1 - A z2 - a      m1 - A (U m1 + u) - a         (I - A U) S1 (I - A U)' + A S2 A'
        x - W z1 - mean    x - W m1 - mean               W S1 W'
    """
    x, a, w = model.flat(batch["x"]), model.top_weight, model.weight
    first, second = guide.q_z1(batch["x"]), guide.q_z2
    m1, s1 = first.loc, first.covariance_matrix
    m2 = second(m1).loc
    u, s2 = guide.up.weight, second(m1).covariance_matrix
    through = torch.eye(len(a)).to(a) - a @ u
    layers = (
        (m2, u @ s1 @ u.T + s2, torch.ones_like(model.scale)),
        (m1 - m2 @ a.T - model.top_mean, through @ s1 @ through.T + a @ s2 @ a.T, model.top_scale),
        (x - m1 @ w.T - model.mean, w @ s1 @ w.T, model.scale),
    )
    found = first.entropy() + second(m1).entropy()
    for error, covariance, scale in layers:
        square = error.square().sum(-1) + covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        found = found - 0.5 * (square / scale**2 + error.shape[-1] * (2 * math.pi * scale**2).log())
    return found

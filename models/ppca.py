"""Probabilistic PCA: a linear-Gaussian model whose evidence and posterior are known exactly.

    z_b ~ N(0, I)                       z: (B, q)
    x_b ~ N(W z_b + mean, scale^2 I)    x: (B, D), W: (D, q)

so that p(x) = N(mean, C) with C = W W' + scale^2 I, and p(z | x) = N(M^-1 W' (x - mean), scale^2 M^-1) with
M = W' W + scale^2 I.

Reference: Tipping & Bishop (1999), Probabilistic Principal Component Analysis, JRSS B 61(3).

Not to be confused with PCA, which has no likelihood, or with factor analysis, whose noise differs per
dimension.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import softplus


class PPCA(PyroModule):
    """p(x, z) of probabilistic PCA; x of any event shape is taken as a vector of D numbers."""

    def __init__(self, x_shape: tuple[int, ...] = (10,), latent: int = 3):
        super().__init__()
        self.x_shape, self.latent = tuple(x_shape), latent
        size = math.prod(x_shape)
        self.weight = nn.Parameter(torch.randn(size, latent) / math.sqrt(size))
        self.mean = nn.Parameter(torch.zeros(size))
        # softplus(0.5413) = 1: the noise starts at the prior's own scale.
        self.raw_scale = nn.Parameter(torch.tensor(0.5413))

    @property
    def scale(self) -> Tensor:
        """Standard deviation of the noise, a scalar."""
        return softplus(self.raw_scale)

    def forward(self, x=None, *, n=None):
        weight, mean, scale = self.weight, self.mean, self.scale
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(weight.new_zeros(self.latent), 1.0).to_event(1))
            loc = (z @ weight.T + mean).unflatten(-1, self.x_shape)
            return pyro.sample("x", dist.Normal(loc, scale).to_event(len(self.x_shape)), obs=x)

    def precision(self) -> Tensor:
        """The posterior's precision, M / scale^2 = I + W' W / scale^2, (q, q): the same for every datum."""
        eye = torch.eye(self.latent, dtype=self.weight.dtype, device=self.weight.device)
        return eye + self.weight.T @ self.weight / self.scale**2

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z | x), exactly, of batch shape (B,)."""
        precision = self.precision()
        centred = x.flatten(-len(self.x_shape)) - self.mean
        # It is positive definite, so that nobody has to wait for the answer whether it has a factor.
        covariance = torch.cholesky_inverse(torch.linalg.cholesky_ex(precision).L)
        loc = centred @ self.weight / self.scale**2 @ covariance
        return dist.MultivariateNormal(loc, scale_tril=torch.linalg.cholesky_ex(covariance).L)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of each datum in nats, (B,)."""
        flat = x.flatten(-len(self.x_shape))
        # The low-rank form costs O(D q^2): D may be 784.
        noise = self.scale**2 * torch.ones_like(self.mean)
        return dist.LowRankMultivariateNormal(self.mean, self.weight, noise).log_prob(flat)

    def elbo(self, x: Tensor, q) -> Tensor:
        """E_q[log p(x, z) - log q(z)] of each datum in nats, (B,), for a Gaussian q of batch shape (B,).

        With q = N(m, S) and |.|^2 summed over entries,
        E_q |z|^2 = |m|^2 + tr S and E_q |x - W z - mean|^2 = |x - W m - mean|^2 + tr(W S W').
        """
        flat = x.flatten(-len(self.x_shape))
        m, covariance = q.mean, gaussian_covariance(q)
        error = (flat - m @ self.weight.T - self.mean).square().sum(-1)
        error = error + (self.weight.T @ self.weight * covariance).sum((-2, -1))
        size = m.square().sum(-1) + covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        log_likelihood = -0.5 * (error / self.scale**2 + len(self.mean) * (2 * math.pi * self.scale**2).log())
        return log_likelihood - 0.5 * (size + self.latent * math.log(2 * math.pi)) + q.entropy()


def gaussian_covariance(q) -> Tensor:
    """The covariance of a Gaussian, full or with independent dimensions, (*batch, q, q)."""
    full = getattr(q, "covariance_matrix", None)
    return torch.diag_embed(q.variance) if full is None else full


def evidence(model: PPCA, batch) -> Tensor:
    """log p(x) of a batch, (B,), in nats."""
    return model.log_evidence(batch["x"])


def posterior(model: PPCA, batch) -> dict:
    """The exact p(z | x) by site."""
    return {"z": model.posterior(batch["x"])}


def elbo(model: PPCA, guide, batch) -> Tensor:
    """The exact ELBO of a guide whose `q(x)` is a Gaussian, (B,), in nats."""
    return model.elbo(batch["x"], guide.q(batch["x"]))

"""A conjugate mixture: a Gaussian mixture of codes seen through Gaussian noise, exact in closed form.

    c_b ~ Cat(softmax(logits))                   c: (B, C), one-hot
    z_b ~ N(loc[c_b], S[c_b])                    z: (B, D), loc: (C, D), S[c] = L[c] L[c]'
    x_b ~ N(z_b, scale^2 I)                      x: (B, D)

Given c all is Gaussian, so that

    p(x | c)    = N(loc[c], S[c] + scale^2 I),   p(x) = sum_c p(c) p(x | c)
    p(c | x)    = p(c) p(x | c) / p(x)
    p(z | x, c) = N(loc[c] + G[c] (x - loc[c]), scale^2 G[c]),   G[c] = S[c] (S[c] + scale^2 I)^-1.

A relaxed c, a point of the simplex, gives weighted means of loc and L.

Reference: Bishop (2006), Pattern Recognition and Machine Learning, sections 2.3.3 and 9.2.

Departures: x is the code plus noise of a fixed scale, since p(x) tells only the sum S[c] + scale^2 I; without
the noise there would be no continuous latent to infer.

Training may leave components unused or let one cover two clusters, as EM may: a maximum of its own that more
components or another seed leave.

Not to be confused with the Gaussian-mixture VAE, which decodes z by a net.
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.distributions import OneHotCategorical


class ConjugateMixture(PyroModule):
    """p(x, z, c); x of any event shape is taken as a vector of D numbers.

    Args:
        x_shape: shape of one datum.
        components: C.
        scale: standard deviation of the noise, in units of x.
    """

    def __init__(self, x_shape: tuple[int, ...] = (2,), components: int = 8, scale: float = 0.1):
        super().__init__()
        self.x_shape, self.components, self.scale = tuple(x_shape), components, scale
        size = math.prod(x_shape)
        self.logits = nn.Parameter(torch.zeros(components))
        # Components that start alike would stay alike.
        self.loc = nn.Parameter(torch.randn(components, size))
        self.scale_tril = PyroParam(torch.eye(size).repeat(components, 1, 1), constraints.lower_cholesky)

    def forward(self, x=None, *, n=None):
        logits, loc, scale_tril = self.logits, self.loc, self.scale_tril
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", OneHotCategorical(logits=logits))
            own = dist.MultivariateNormal(c @ loc, scale_tril=of_component(c, scale_tril))  # type: ignore
            z = pyro.sample("z", own)
            seen = dist.Normal(z.unflatten(-1, self.x_shape), self.scale).to_event(len(self.x_shape))
            return pyro.sample("x", seen, obs=x)

    def covariance(self) -> Tensor:
        """S of each component, (C, D, D)."""
        scale_tril: Any = self.scale_tril
        return scale_tril @ scale_tril.mT

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, c) of each datum and component in nats, (B, C)."""
        noise = self.scale**2 * torch.eye(self.loc.shape[-1]).to(self.loc)
        seen = dist.MultivariateNormal(self.loc, self.covariance() + noise)
        return self.logits.log_softmax(-1) + seen.log_prob(x.flatten(-len(self.x_shape)).unsqueeze(-2))

    def posterior_z(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z | x, c), exactly, of batch shape (B, C)."""
        away = x.flatten(-len(self.x_shape)).unsqueeze(-2) - self.loc
        covariance = self.covariance()
        eye = torch.eye(self.loc.shape[-1]).to(self.loc)
        gain = torch.linalg.solve(covariance + self.scale**2 * eye, covariance)
        loc = self.loc + (gain.mT @ away.unsqueeze(-1)).squeeze(-1)
        # Symmetric, as S and (S + scale^2 I)^-1 commute; rounding is not.
        return dist.MultivariateNormal(loc, self.scale**2 * (gain + gain.mT) / 2)


def of_component(c: Tensor, each: Tensor) -> Tensor:
    """The matrix of the component c, (*batch, D, D), from those of all, (C, D, D)."""
    return (c @ each.flatten(1)).unflatten(-1, each.shape[1:])


def evidence(model: ConjugateMixture, batch) -> Tensor:
    """log p(x) of a batch, (B,), in nats."""
    return model.log_joint(batch["x"]).logsumexp(-1)


def posterior(model: ConjugateMixture, batch) -> dict:
    """The exact p(c | x), and p(z | x, c) as a function of the value of c."""
    each = model.posterior_z(batch["x"])

    def given(values):
        c = values["c"]
        loc = (c.unsqueeze(-1) * each.loc).sum(-2)
        return dist.MultivariateNormal(loc, scale_tril=of_component(c, each.scale_tril[0]))

    return {"c": OneHotCategorical(logits=model.log_joint(batch["x"])), "z": given}


def elbo(model: ConjugateMixture, guide, batch) -> Tensor:
    """The exact ELBO, (B,), in nats, of a guide with a Gaussian q(z | x, c) for each c.

        sum_c q(c | x) (log p(c) + E log p(z | c) + E log p(x | z) + H(q(z | x, c)) - log q(c | x)),

    where the mean of log N(z; loc, L L') over N(m, V V') is log N(m; loc, L L') - |L^-1 V|^2 / 2, the norm
    summed over all entries.
    """
    x = batch["x"].flatten(-len(model.x_shape))
    log_q = guide.q_c(batch["x"]).logits.log_softmax(-1)
    q = guide.q_z_of_all(batch["x"])
    p = dist.MultivariateNormal(model.loc, scale_tril=model.scale_tril)  # type: ignore
    spread = torch.linalg.solve_triangular(p.scale_tril, q.scale_tril, upper=False)
    prior = p.log_prob(q.loc) - 0.5 * spread.square().sum((-2, -1))
    likelihood = dist.Normal(q.loc, model.scale).to_event(1).log_prob(x.unsqueeze(-2))
    likelihood = likelihood - 0.5 * q.scale_tril.square().sum((-2, -1)) / model.scale**2
    each = model.logits.log_softmax(-1) + prior + likelihood + q.entropy() - log_q
    return (log_q.exp() * each).sum(-1)

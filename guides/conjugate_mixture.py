"""The guide of the conjugate mixture: q(c | x) q(z | x, c), a quadratic classifier and a Gaussian for each c.

    q(c | x)    = Cat(softmax_c(bias_c - |R_c (x - centre_c)|^2 / 2))     R: (C, D, D), centre: (C, D)
    q(z | x, c) = N(gain_c x + offset_c, L_c L_c')                        gain, L: (C, D, D)

Covers c and z. The log-odds of Gaussian components are quadratic in x, and p(z | x, c) is linear in x, so
that the exact posterior is of this form: at the optimum the ELBO is the evidence. Elsewhere the gap is
KL(q, posterior), in closed form.

Training sums c out under q(c | x), exactly: the gradient has no score-function term. For importance weights
c is drawn. The guide starts knowing which component is which, from the model's start, but not how wide they
are.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from ppvae.distributions import OneHotCategorical
from ppvae.models.conjugate_mixture import ConjugateMixture, elbo, evidence, of_component, posterior
from ppvae.pair import Pair


class QuadraticMixture(PyroModule):
    """q(c | x) q(z | x, c), with parameters of its own for each component."""

    def __init__(self, model: ConjugateMixture):
        super().__init__()
        self.event_dim = len(model.x_shape)
        components, size = model.components, math.prod(model.x_shape)
        each = torch.eye(size).repeat(components, 1, 1)
        self.bias = nn.Parameter(torch.zeros(components))
        self.centre = nn.Parameter(model.loc.detach().clone())
        self.root = nn.Parameter(0.5 * each)
        self.gain = nn.Parameter(0.9 * each)
        self.offset = nn.Parameter(torch.zeros(components, size))
        self.scale_tril = PyroParam(model.scale * each, constraints.lower_cholesky)

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", self.q_c(x))
            pyro.sample("z", self.q_z(x, c))

    def q_c(self, x) -> OneHotCategorical:
        """q(c | x), of batch shape (B,)."""
        away = x.flatten(-self.event_dim).unsqueeze(-2) - self.centre
        distance = (self.root @ away.unsqueeze(-1)).square().sum((-2, -1))
        return OneHotCategorical(logits=self.bias - distance / 2)

    def q_z(self, x, c) -> dist.MultivariateNormal:
        """q(z | x, c), of the batch shape of x and c; a relaxed c gives weighted means of the parameters."""
        seen = of_component(c, self.gain) @ x.flatten(-self.event_dim).unsqueeze(-1)
        loc = seen.squeeze(-1) + c @ self.offset
        return dist.MultivariateNormal(loc, scale_tril=of_component(c, self.scale_tril))  # type: ignore

    def q_z_of_all(self, x) -> dist.MultivariateNormal:
        """q(z | x, c) for every c, of batch shape (B, C)."""
        seen = self.gain @ x.flatten(-self.event_dim)[..., None, :, None]
        return dist.MultivariateNormal(seen.squeeze(-1) + self.offset, scale_tril=self.scale_tril)  # type: ignore


PAIR = Pair(
    model=ConjugateMixture,
    guide=QuadraticMixture,
    data="gaussian_mixture_2d",
    discrete={"c": "score"},
    train={"estimator": "elbo:c=enumerate", "epochs": 500, "lr": 1e-2, "schedule": "cosine"},
    evidence=evidence,
    posterior=posterior,
    elbo=elbo,
    latent="c: 1 of 8; z: 2 reals, full covariance for each c",
    reference="Bishop (2006), Pattern Recognition and Machine Learning, sections 2.3.3 and 9.2",
)

"""The noisy-or network: hidden causes, each of which may turn a symptom on; exact by sums over all causes.

    z_bj ~ Bernoulli(sigmoid(logits_j))                        z: (B, latent)
    x_bd ~ Bernoulli(1 - exp(-leak_d - sum_j weight_dj z_bj))  x: (B, *x_shape), weight: (D, latent)

with leak, weight > 0: cause j fails to turn symptom d on with probability exp(-weight_dj), independently of
the other causes, and exp(-leak_d) is the probability that nothing unseen does. Given x the causes depend on
each other: a symptom that one of them explains needs no other ("explaining away").

With few causes everything is a sum over the 2^latent values of z:

    p(x) = sum_z p(z) p(x | z),    p(z | x) = p(z) p(x | z) / p(x).

A relaxed z between 0 and 1 is taken as it stands.

Reference: Pearl (1988), Probabilistic Reasoning in Intelligent Systems, section 4.3.2; Jaakkola & Jordan
(1999), Variational Probabilistic Inference and the QMR-DT Network, JAIR 10.

Departures: the network is learned, where QMR-DT is given by experts, and is as small as an exact sum wants.

Not to be confused with the sigmoid belief network, where causes add up in the log-odds.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.errors import UsageError

LARGEST = 20


class NoisyOr(PyroModule):
    """p(x, z) of a noisy-or network; x of any event shape is taken as a vector of D bits.

    Args:
        x_shape: shape of one datum.
        latent: number of causes.
    """

    def __init__(self, x_shape: tuple[int, ...] = (6,), latent: int = 2):
        super().__init__()
        self.x_shape, self.latent = tuple(x_shape), latent
        size = math.prod(x_shape)
        self.logits = nn.Parameter(torch.zeros(latent))
        # Causes that start alike would stay alike.
        self.raw_weight = nn.Parameter(torch.randn(size, latent))
        self.raw_leak = nn.Parameter(torch.full((size,), -2.0))

    @property
    def weight(self) -> Tensor:
        """-log of the probability that cause j fails to turn symptom d on, (D, latent)."""
        return softplus(self.raw_weight)

    @property
    def leak(self) -> Tensor:
        """-log of the probability that symptom d stays off without any cause, (D,)."""
        return softplus(self.raw_leak)

    def forward(self, x=None, *, n=None):
        prior, weight, leak = self.logits, self.weight, self.leak
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=prior).to_event(1))
            logits = on_logits(z @ weight.T + leak).unflatten(-1, self.x_shape)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(len(self.x_shape)), obs=x)

    def states(self) -> Tensor:
        """All values of z, (2^latent, latent).

        Raises:
            UsageError: they are too many.
        """
        if self.latent > LARGEST:
            raise UsageError(
                f"latent={self.latent} bits have 2^{self.latent} values, too many to sum over: "
                f"use at most {LARGEST}, or importance sampling"
            )
        bits = torch.arange(2**self.latent)[:, None] >> torch.arange(self.latent)
        return (bits & 1).to(self.logits)

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z) for each datum and each of `states()`, in nats, (B, 2^latent)."""
        z = self.states()
        likelihood = dist.Bernoulli(logits=on_logits(z @ self.weight.T + self.leak)).to_event(1)
        prior = dist.Bernoulli(logits=self.logits).to_event(1).log_prob(z)
        return prior + likelihood.log_prob(x.flatten(-len(self.x_shape)).unsqueeze(-2))


def on_logits(t: Tensor) -> Tensor:
    """The log-odds of an event of probability 1 - exp(-t), t > 0: log(exp(t) - 1)."""
    return t + torch.log(-torch.expm1(-t))


def evidence(model: NoisyOr, batch) -> Tensor:
    """log p(x) of a batch, (B,), in nats."""
    return model.log_joint(batch["x"]).logsumexp(-1)


def posterior(model: NoisyOr, batch) -> dict:
    """The exact p(z | x), all bits of z together: a mixture of the 2^latent points that z can be."""
    log_joint = model.log_joint(batch["x"])
    points = dist.Bernoulli(probs=model.states().expand(len(log_joint), -1, -1)).to_event(1)
    return {"z": dist.MixtureSameFamily(dist.Categorical(logits=log_joint), points)}


def elbo(model: NoisyOr, guide, batch) -> Tensor:
    """The exact ELBO, (B,), in nats, of a guide whose `q(x)` is a distribution of z: a sum over all z."""
    z = model.states()
    log_q = guide.q(batch["x"]).log_prob(z.unsqueeze(1)).T
    return (log_q.exp() * (model.log_joint(batch["x"]) - log_q)).sum(-1)

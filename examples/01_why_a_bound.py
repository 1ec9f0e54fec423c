"""Why a bound: the two proofs that the ELBO lies below log p(x), one number at a time.

The model is so small that nothing is hidden: z ~ N(0, 1), x | z ~ N(z, 1), and one datum, x = 1. Then
p(x) = N(x; 0, 2) and the posterior is p(z | x) = N(x / 2, 1 / 2), exactly. The guide is
q(z) = N(loc, scale^2).
"""

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch.distributions import kl_divergence

import ppvae
from ppvae.build import build
from ppvae.estimators import ELBO
from ppvae.plots.style import STYLE

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
plt.rcParams.update(STYLE)
x = torch.ones(1)
log_p = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).item()
posterior = dist.Normal(0.5, math.sqrt(0.5))
print(f"log p(x) = {log_p:.6f} nats")


# %% The pair: a model p(x, z) and a guide q(z), both plain Pyro.
def model(x=None, *, n=None):
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        return pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Guide(torch.nn.Module):
    def __init__(self, model=None, loc=0.0, scale=1.0):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.tensor(loc))
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, x, *, n=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc, self.scale))


def draws(loc, scale, particles=200_000):
    """log w = log p(x, z) - log q(z) at draws of q: all that the library computes starts from these."""
    built = build(ppvae.Pair(model=model, guide=Guide, data=None), loc=loc, scale=scale)
    with torch.no_grad():
        return built.score({"x": x}, particles).log_weight[:, 0]


# %% Proof 1, Jensen: log E[w] >= E[log w], where w = p(x, z) / q(z) has the mean p(x) whatever q is.
#
#     log p(x) = log int p(x, z) dz = log E_q[p(x, z) / q(z)] >= E_q[log p(x, z) - log q(z)] = ELBO(q)
print("\nProof 1: the mean of w is p(x) for any guide; the mean of log w is not log p(x)")
print(f"{'q':>16} {'log E[w]':>12} {'E[log w] = ELBO':>16}")
for loc, scale in [(0.0, 1.0), (0.25, 0.8), (0.5, math.sqrt(0.5))]:
    log_w = draws(loc, scale)
    inside, outside = log_w.logsumexp(0) - math.log(len(log_w)), log_w.mean()
    print(f"N({loc:.2f}, {scale**2:.2f}) {inside:>16.4f} {outside:>16.4f}")
    assert outside <= log_p + 1e-9
    assert abs(inside - log_p) < 0.02


# %% Proof 2, the identity: log p(x) = ELBO(q) + KL(q, p(z | x)), and a KL is never negative.
#
# What the bound lacks is not lost in a proof's inequality: it has a name, and here a closed form.
def elbo(loc, scale):
    """E_q[log p(x, z)] + H(q), in closed form."""
    expected = -0.5 * ((x - loc) ** 2 + scale**2 + loc**2 + scale**2) - math.log(2 * math.pi)
    return (expected + 0.5 * math.log(2 * math.pi * math.e * scale**2)).item()


print("\nProof 2: what is missing is KL(q, posterior), exactly")
print(f"{'q':>16} {'ELBO':>10} {'KL':>10} {'sum':>10}")
for loc, scale in [(0.0, 1.0), (0.25, 0.8), (0.5, math.sqrt(0.5)), (2.0, 0.3)]:
    gap = kl_divergence(dist.Normal(loc, scale), posterior).item()
    print(
        f"N({loc:.2f}, {scale**2:.2f}) {elbo(loc, scale):>12.6f} {gap:>10.6f} {elbo(loc, scale) + gap:>10.6f}"
    )
    assert abs(elbo(loc, scale) + gap - log_p) < 1e-12

# %% So maximizing the ELBO over q is minimizing KL(q, posterior), which nobody can compute: SVI does it.
built = build(ppvae.Pair(model=model, guide=Guide, data=None))
loss = ELBO(particles=16)(built)  # a module: minus the ELBO, in nats per datum
optimizer = torch.optim.Adam(built.parameters(), lr=0.05)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
for _ in range(400):
    optimizer.zero_grad()
    loss(x=x).backward()
    optimizer.step()
    schedule.step()
found = built.guide
print(f"\nSVI found q = N({found.loc.item():.3f}, {found.scale.item() ** 2:.3f})")
print("the posterior is N(0.500, 0.500)")

# %% A picture: the bound touches log p(x) where the guide is the posterior, and nowhere else.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
locs = torch.linspace(-1.0, 2.0, 121)
for scale, shade in [(1.0, "0.7"), (math.sqrt(0.5), "C0"), (0.4, "0.4")]:
    values = [elbo(loc.item(), scale) for loc in locs]
    left.plot(locs, values, color=shade, label=f"ELBO, scale {scale:.2f}")
left.axhline(log_p, color="C3", label="log p(x)")
left.set(xlabel="loc of q", ylabel="nats", ylim=(-4.5, -1.2), title="a bound for every guide")
left.legend(frameon=False, fontsize=8)
z = torch.linspace(-3.0, 3.5, 300)
right.plot(z, posterior.log_prob(z).exp(), color="C3", label="posterior")
right.plot(z, dist.Normal(0.0, 1.0).log_prob(z).exp(), color="0.7", label="q = N(0, 1), the prior")
fitted = dist.Normal(found.loc.detach(), found.scale.detach())
right.plot(z, fitted.log_prob(z).exp(), "--", color="C0", label="q found by SVI")
right.set(xlabel="z", title="where the bound is tight")
right.legend(frameon=False, fontsize=8)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)

# %% What to remember.
#
# - The weights w = p(x, z) / q(z) average to p(x) for every guide; the ELBO averages their logarithms.
# - log p(x) - ELBO = KL(q, posterior): the gap says how far the guide is from the posterior, in nats.
# - Averaging several w *before* the logarithm gives a tighter bound: that is `iwae`, and lesson 3.

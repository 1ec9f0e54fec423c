"""Two gradients of one expectation: the score function and the reparameterization.

The ELBO is an expectation under the guide, and the guide is what we differentiate by. Two ways past
that:

    score function       grad E_q[f(z)] = E_q[f(z) grad log q(z)]            needs only log q
    reparameterization   grad E_q[f(z)] = E_eps[grad f(T(eps))], z = T(eps)  needs f's slope, and a T

Both are unbiased. What differs is their noise, and how it grows with the number of latents.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import ppvae
from ppvae.build import build
from ppvae.estimators import ELBO
from ppvae.plots.style import STYLE

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
plt.rcParams.update(STYLE)


# %% z ~ N(0, I), x | z ~ N(z, I), x = (1, ..., 1), in D dimensions; the guide is N(loc, I).
#
# Each row of the batch is the same datum with a loc of its own, so that one pass gives as many independent
# gradients as there are rows.
def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Guide(torch.nn.Module):
    def __init__(self, model=None, rows=1, dims=1):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(rows, dims))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


def gradients(estimator, dims, rows=200_000):
    """Independent single-draw gradients of the ELBO in loc, (rows, dims); the truth is x - 2 loc = 1."""
    built = build(ppvae.Pair(model=model, guide=Guide, data=None), rows=rows, dims=dims)
    loss = estimator(built)(x=torch.ones(rows, dims))
    (gradient,) = torch.autograd.grad(loss, [built.guide.loc])
    return -gradient * rows  # the loss is a mean over rows, and minus the ELBO


# %% In Pyro the choice is the distribution's: `has_rsample` says whether a draw can be differentiated. Here
# any site may be told otherwise, by name: `z=score`.
WAYS = {
    "reparameterization": ELBO(),
    "score function": ELBO(sites={"z": "score"}),
    "score function, 10 draws": ELBO(particles=10, sites={"z": "score"}),
}
print("one dimension; the true gradient is 1")
for name, estimator in WAYS.items():
    g = gradients(estimator, 1)[:, 0]
    error = g.std() / len(g) ** 0.5
    print(f"  {name:<26} mean {g.mean():.3f} +- {error:.3f}   variance {g.var():8.3f}")
    assert abs(g.mean() - 1) < 4 * error

# %% The noise grows with the number of latents for one and not for the other: the score function multiplies
# the noise of *one* coordinate's score by the log-weight of *all* coordinates.
print("\nvariance of the gradient in one coordinate")
dims = [1, 2, 5, 10, 20, 50, 100]
measured = {name: [gradients(e, d, 4000)[:, 0].var().item() for d in dims] for name, e in WAYS.items()}
print(f"  {'D':<26}" + "".join(f"{d:>9}" for d in dims))
for name, variances in measured.items():
    print(f"  {name:<26}" + "".join(f"{v:>9.2f}" for v in variances))

# %% A picture.
figure, axis = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
for (name, variances), color in zip(measured.items(), ("C0", "C3", "C1"), strict=True):
    axis.loglog(dims, variances, "o-", color=color, label=name)
axis.set(xlabel="latent dimensions", ylabel="variance of one coordinate", title="one datum, one gradient")
axis.legend(fontsize=8)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)

# %% What to remember.
#
# - Both are unbiased; the score function needs nothing of f but its value, so it works for discrete latents.
# - Where a draw can be differentiated, do it: the slope of f is information that the score function wastes.
# - Where it cannot, the variance must be brought down by other means: baselines, several draws, relaxations,
#   enumeration. That is lesson 5.

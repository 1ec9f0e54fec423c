"""Discrete latents: seven ways to a gradient that the reparameterization cannot give, against the exact one.

A draw of a bit has no slope. What is left: sum over all values (exact, as long as there are few); the score
function with something that lowers its variance (a baseline from other draws, antithetic pairs); or a
continuous relaxation of the bit, whose gradient is quiet and wrong. Each is compared with the sum.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import ppvae
from ppvae import estimators
from ppvae.build import build
from ppvae.plots.style import STYLE

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
plt.rcParams.update(STYLE)
BITS, PIXELS, REPEATS = 8, 12, 20_000
WEIGHT = torch.randn(BITS, PIXELS)
X = (torch.rand(PIXELS) < 0.5).double()


# %% z: 8 fair bits, x | z: 12 bits with logits z W. The guide has one logit a bit: 256 states in all.
def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(torch.full((BITS,), 0.5)).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=(z - 0.5) @ WEIGHT).to_event(1), obs=x)


class Guide(torch.nn.Module):
    """One vector of logits a row: each row of a batch of equal data gives an independent gradient."""

    def __init__(self, model=None, rows=1):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.linspace(-1, 1, BITS).expand(rows, BITS).clone())

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.logits).to_event(1))


def gradients(text, rows=REPEATS):
    """Independent gradients of the ELBO in the logits, (rows, BITS)."""
    pair = ppvae.Pair(model=model, guide=Guide, data=None, discrete={"z": "score"})
    built = build(pair, rows=rows)
    loss = estimators.find(text)(built)(x=X.expand(rows, PIXELS))
    (gradient,) = torch.autograd.grad(loss, [built.guide.logits])
    return -gradient * rows


# %% The truth: the sum over all 256 states.
exact = gradients("enumeration", rows=1)[0]
print(f"the exact gradient has the norm {exact.norm():.4f} nats; {REPEATS} repeats of each estimator")

# %% Evaluations of log p(x, z) are what costs: the estimators get two of them each, where they can.
WAYS = {
    "score function": "elbo:particles=2",
    "with a baseline (RLOO)": "reinforce:particles=2",
    "ARM": "arm",
    "DisARM": "disarm",
    "Gumbel-softmax, T = 1": "gumbel:particles=2,temperature=1",
    "Gumbel-softmax, T = .2": "gumbel:particles=2,temperature=0.2",
    "straight-through, T = 1": "straight_through:particles=2,temperature=1",
}
# The mean of so many gradients is off by its own noise, too, which is taken out of the bias:
# E|mean - exact|^2 = |bias|^2 + error^2.
print(f"\n{'estimator':<26}{'bias':>9}{'+-':>9}{'noise':>9}")
measured = {}
for name, text in WAYS.items():
    g = gradients(text)
    off = g.mean(0) - exact
    error = (g.var(0).sum() / len(g)).sqrt()
    noise = g.var(0).sum().sqrt()
    bias = (off.norm() ** 2 - error**2).clamp(min=0).sqrt()
    measured[name] = (bias.item(), error.item(), noise.item())
    print(f"{name:<26}{bias:>9.4f}{error:>9.4f}{noise:>9.4f}")

# %% A picture: bias, hollow where it is within two standard errors of 0, and noise.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
names = list(measured)[::-1]
biases, errors, noises = zip(*(measured[name] for name in names), strict=True)
for row, (bias, error) in enumerate(zip(biases, errors, strict=True)):
    left.plot([max(bias - 2 * error, 0), bias + 2 * error], [row, row], color="0.6", lw=1.5)
    left.plot(bias, row, "o", color="C3", mfc="C3" if bias > 2 * error else "white", clip_on=False)
left.set_yticks(range(len(names)), names)
left.set(xlabel="norm of the bias ± 2 standard errors, nats", title="how wrong (hollow: not seen)")
left.set_xlim(0)
right.barh(names, noises, color="C0")
right.set(xlabel="standard deviation, nats", title="how noisy")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)

# %% What to remember.
#
# - Few states: `enumeration`, or `c=enumerate` for one site of many. No noise at all.
# - Unbiased at any size: `disarm` for bits, `reinforce` and `vimco` with several draws, `nvil` with a
#   learned baseline, `rebar` and `relax` with a relaxation as a control variate.
# - `gumbel` trades bias for quiet: the lower its temperature, the smaller the bias and the larger the noise.
# - `ppvae compare bernoulli_vae --estimators disarm vimco gumbel` shows the same on images.

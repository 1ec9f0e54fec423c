"""The two gaps: what the family of q cannot do, and what one encoder for all data does not do.

    log p(x) - ELBO(q_phi) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q_phi)]
                               approximation gap        amortization gap

where q* is the best member of the family for this very datum, found by optimizing it alone (Cremer, Li &
Duvenaud 2018). A richer family mends the first, a better encoder the second; the total tells neither.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch

import ppvae
from ppvae.build import build
from ppvae.evaluation.gaps import inference_gaps
from ppvae.models.ppca import PPCA, evidence
from ppvae.plots.style import STYLE

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
plt.rcParams.update(STYLE)
SIZE, LATENT = 6, 3


# %% A linear-Gaussian model: its posterior is N(A x, M^-1) with one A for all data, and correlated.
class Linear(PPCA):
    def __init__(self):
        super().__init__((SIZE,), LATENT)
        generator = torch.Generator().manual_seed(1)
        common = 1.5 + 0.3 * torch.randn(SIZE, LATENT, generator=generator)
        self.weight = torch.nn.Parameter(common)
        self.raw_scale = torch.nn.Parameter(torch.tensor(2.0))


# %% Four guides: a full covariance or a diagonal one, and an encoder that sees all of x or all but a number.
class Guide(torch.nn.Module):
    def __init__(self, model, full=True, sees=SIZE):
        super().__init__()
        self.full, self.sees = full, sees
        with torch.no_grad():
            self.precision = model.precision()
            # The regression of z on what is seen, exact for that: loc = A x.
            seen = model.weight[:sees]
            noise = model.scale**2 * torch.eye(sees)
            self.a = torch.nn.Parameter(seen.T @ torch.linalg.inv(seen @ seen.T + noise))

    def forward(self, x):
        loc = x[:, : self.sees] @ self.a.T
        if self.full:
            q = dist.MultivariateNormal(loc, precision_matrix=self.precision)
        else:  # the best diagonal: the *conditional* variances, which are too small
            q = dist.Normal(loc, self.precision.diagonal().rsqrt()).to_event(1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", q)


# %% Measure: for each of 40 data, a q of its own is optimized from where the encoder put it.
GUIDES = {
    "full, sees x": {"full": True, "sees": SIZE},
    "diagonal, sees x": {"full": False, "sees": SIZE},
    "full, sees all but one": {"full": True, "sees": SIZE - 1},
    "diagonal, sees all but one": {"full": False, "sees": SIZE - 1},
}
with torch.no_grad():
    x = Linear()(n=40)
print(f"{'guide':<26}{'approximation gap':>19}{'amortization gap':>19}   nats, mean over {len(x)} data")
measured = {}
for name, options in GUIDES.items():
    built = build(ppvae.Pair(model=Linear, guide=Guide, data=None, evidence=evidence), **options)
    found = inference_gaps(built, {"x": x}, steps=400, draws=4000)
    gaps = (found.log_p - found.best).mean().item(), (found.best - found.amortized).mean().item()
    measured[name] = gaps
    print(f"{name:<26}" + "".join(f"{round(gap, 3) + 0.0:>19.3f}" for gap in gaps))  # + 0.0: no -0.000

# %% The truth of the second line: the best diagonal q loses half of (sum log Lambda_ii - log det Lambda).
precision = Linear().precision().detach()
exact = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
print(f"\nin closed form, the approximation gap of a diagonal guide is {exact:.3f} nats")
assert abs(measured["diagonal, sees x"][0] - exact) < 0.05

# %% A picture.
figure, axis = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
names = list(measured)[::-1]
values = np.array([measured[name] for name in names])
axis.barh(names, values[:, 0], color="C0", label="approximation gap")
axis.barh(names, values[:, 1], left=values[:, 0], color="C1", label="amortization gap")
axis.axvline(exact, color="0.4", lw=1, ls="--", label="best diagonal, closed form")
for row, total in enumerate(values.sum(1)):
    axis.text(max(total, 0) + 0.01, row, f"{abs(total):.3f}", va="center", fontsize=8)
axis.set(xlabel="log p(x) - ELBO, nats", title="one total, two causes", xlim=(0, 0.95))
axis.set_xticks([0, 0.2, 0.4, 0.6, 0.8])
figure.legend(fontsize=8, loc="outside lower center", ncols=3)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)

# %% What to remember.
#
# - The gap of a trained VAE is the sum of both; look before you reach for a flow: the encoder may be the
#   cause.
# - q* of a wrong family is still wrong; an encoder that is wrong for all data can be put right by more of it.
# - `ppvae evaluate latest --gaps` measures both on a trained pair, with the errors of its own.

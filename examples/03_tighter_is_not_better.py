"""A tighter bound is not a better teacher: what more particles do to the guide's gradient.

The importance-weighted bound L_K rises with K and reaches log p(x). But as it does, it cares less and less
about the guide: with K large enough, any guide gives log p(x). Its gradient in the guide's parameters fades
faster than its noise does, and the signal-to-noise ratio falls as 1 / sqrt(K) (Rainforth et al. 2018). The
doubly reparameterized gradient of the *same* bound (Tucker et al. 2019) turns that into a rise as sqrt(K).
"""

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import ppvae
from ppvae.build import build
from ppvae.estimators import IWAE, DReG
from ppvae.plots.style import STYLE

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
plt.rcParams.update(STYLE)
DIMS, REPEATS = 20, 2000
K = [1, 2, 4, 8, 16, 32, 64, 128, 256]


# %% z ~ N(0, I), x | z ~ N(z, I), x = (1, ..., 1): the posterior is N(x / 2, I / 2). The guide is near it:
# its loc is .01 off, its variance 2 / 3 for 1 / 2.
def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Guide(torch.nn.Module):
    """One loc a row: each row of a batch of equal data gives an independent gradient."""

    def __init__(self, model=None, rows=1):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.full((rows, DIMS), 0.51))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc, math.sqrt(2 / 3)).to_event(1))


def gradients(estimator):
    """Independent gradients of the bound in loc, (REPEATS, DIMS), and the bound's mean."""
    found, bounds = [], []
    rows = max(1, 40_000 // estimator.particles)
    for start in range(0, REPEATS, rows):
        count = min(rows, REPEATS - start)
        built = build(ppvae.Pair(model=model, guide=Guide, data=None), rows=count)
        loss = estimator(built)(x=torch.ones(count, DIMS))
        (gradient,) = torch.autograd.grad(loss, [built.guide.loc])
        found.append(-gradient * count)
        bounds.append(-loss.item() * count)
    return torch.cat(found), sum(bounds) / REPEATS


# %% The mean gradient is read off DReG, whose noise is smaller: with a few thousand repeats the plain
# estimate of a mean as small as this would be noise itself, and show a ratio that is not there.
log_p = dist.Normal(0.0, math.sqrt(2.0)).log_prob(torch.ones(DIMS)).sum().item()
print(f"log p(x) = {log_p:.3f} nats, {DIMS} latents, {REPEATS} repeats")
print(f"{'':>27} {'------ noise ------':>21}  {'------ SNR ------':>19}")
print(f"{'K':>5} {'L_K':>10} {'|mean|':>10} {'IWAE':>10} {'DReG':>10}  {'IWAE':>9} {'DReG':>9}")
snr = {"iwae": [], "dreg": []}
bound = []
for k in K:
    plain, _ = gradients(IWAE(particles=k))
    doubly, value = gradients(DReG(particles=k))
    signal = doubly.mean(0).abs()
    ratios = [(signal / g.std(0)).mean().item() for g in (plain, doubly)]
    snr["iwae"].append(ratios[0])
    snr["dreg"].append(ratios[1])
    bound.append(value)
    noise = [g.std(0).mean().item() for g in (plain, doubly)]
    print(
        f"{k:>5} {value:>10.4f} {signal.mean():>10.5f} {noise[0]:>10.5f} {noise[1]:>10.5f} "
        f" {ratios[0]:>9.4f} {ratios[1]:>9.4f}"
    )

# %% A picture.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
left.semilogx(K, bound, "o-", color="C0", label="L_K")
left.axhline(log_p, color="C3", label="log p(x)")
left.set(xlabel="particles K", ylabel="nats", title="the bound gets tighter")
left.legend(fontsize=8)
right.loglog(K, snr["iwae"], "o-", color="C3", label="IWAE gradient")
right.loglog(K, snr["dreg"], "o-", color="C0", label="doubly reparameterized")
right.set(xlabel="particles K", ylabel="signal to noise, guide", title="its plain gradient gets worse")
right.legend(fontsize=8)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)

# %% What to remember.
#
# - A tighter bound is a better *number*, and a better gradient for the model: the model's SNR rises with K.
# - For the guide, K large makes the plain gradient mostly noise. Use `dreg:particles=K`; or train the guide
#   by a looser bound than the model (`piwae`), or average several bounds (`miwae`).
# - `ppvae compare vae --estimators elbo iwae:k=50 dreg:k=50 --probe` measures this on any pair of yours.

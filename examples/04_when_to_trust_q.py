"""When to trust q: the Pareto k-hat of the importance weights, datum by datum.

Every number that a guide gives (the ELBO's gap, log p(x) by importance sampling, a posterior mean) rests on
the weights w = p(x, z) / q(z | x). If q is too narrow, the rare draw in its tail has a huge weight, and the
average over the draws that one has looks calm and is wrong. The shape k of the weights' tail tells: their
moments exist below the order 1 / k, and above k = 0.7 no number of draws that one can afford will do.
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
from ppvae.evaluation.psis import effective_sample_size, psis
from ppvae.plots.style import STYLE

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
plt.rcParams.update(STYLE)
DRAWS = 4000


# %% z ~ N(0, 1), x | z ~ N(z, 1), so that the posterior is N(x / 2, 1 / 2). The guide has the right loc,
# and a variance that is a fraction of the right one.
def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Guide(torch.nn.Module):
    def __init__(self, model=None, fraction=1.0, shift=0.0):
        super().__init__()
        self.fraction, self.shift = fraction, shift
        self.slope = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        # The last datum is unlike the others, and this guide has not learned about it.
        off = torch.zeros_like(x)
        off[-1] = self.shift
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.slope * x + off, math.sqrt(0.5 * self.fraction)))


def log_weights(x, draws=DRAWS, **guide):
    built = build(ppvae.Pair(model=model, guide=Guide, data=None), **guide)
    with torch.no_grad():
        return built.score({"x": x}, draws).log_weight


# %% For a Gaussian q narrower than a Gaussian posterior the truth is known: k = 1 - fraction.
FRACTIONS = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
x = torch.ones(200)  # one datum, 200 times over: how k-hat and the estimate vary
log_p = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x[0]).item()
print(f"{DRAWS} draws a datum; log p(x) = {log_p:.4f} nats")
print("log p^ - log p: mean, median and standard deviation over the 200 estimates")
print(f"{'var q / var p':>13} {'k':>6} {'k-hat':>7} {'ESS / K':>8} {'mean':>9} {'median':>9} {'sd':>8}")
seen = []
for fraction in FRACTIONS:
    log_w = log_weights(x, fraction=fraction)
    k_hat = psis(log_w).k_hat
    off = log_w.logsumexp(0) - math.log(DRAWS) - log_p
    mean, median = (round(value.item(), 4) + 0.0 for value in (off.mean(), off.median()))  # no -0.0000
    ess = effective_sample_size(log_w).mean() / DRAWS
    seen.append((1 - fraction, k_hat.median().item(), off))
    print(
        f"{fraction:>13.1f} {1 - fraction:>6.2f} {k_hat.median():>7.2f} {ess:>8.3f}"
        f" {mean:>9.4f} {median:>9.4f} {off.std():>8.4f}"
    )

# %% Weights are per datum, and so is the trust in them. Here 49 data are served well and one is not; a
# single k-hat of the joint weights of all data would condemn all of them, and tell nobody which one to look
# at.
x = torch.cat([torch.linspace(-2, 2, 49), torch.tensor([6.0])])
log_w = log_weights(x, fraction=0.7, shift=-2.0)
k_hat = psis(log_w).k_hat
joint = psis(log_w.sum(1, keepdim=True)).k_hat.item()
worst = int(k_hat.argmax())
high = (k_hat > 0.7).sum()
print(f"\n50 data: k-hat is above 0.7 for {high}; the worst is datum {worst} with {k_hat[worst]:.2f};")
print(f"the joint weights of all data have one k-hat, {joint:.2f}")
assert worst == 49

# %% A picture.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
left.plot([0, 1], [0, 1], color="0.75", label="k = 1 - var q / var p")
left.plot([k for k, _, _ in seen], [h for _, h, _ in seen], "o", color="C0", label="k-hat, median")
left.axhline(0.7, color="C3", lw=1)
left.text(0.02, 0.72, "0.7: do not trust", color="C3", fontsize=8)
left.set(xlabel="k", ylabel="k-hat", title="the tail is seen in the draws")
left.legend(fontsize=8, loc="lower right")
right.boxplot([e.numpy() for _, _, e in seen], positions=range(len(seen)), showfliers=False, widths=0.6)
right.axhline(0, color="C3", lw=1)
right.set_xticks(range(len(seen)), [f"{k:.1f}" for k, _, _ in seen])
right.set(xlabel="k", ylabel="nats", title="estimate of log p(x), less log p(x)")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)

# %% What to remember.
#
# - Below k-hat = 0.5 the weights have a variance and their standard error means something; above 0.7
#   neither the estimate nor its error does. In expectation log p(x) is underestimated (Jensen); what one
#   sees is most often too low, and now and then a rare draw lifts it far up: the median shows it, the mean
#   of 200 estimates need not.
# - The effective sample size alone is no warning: in too few draws it looks better than it is.
# - `ppvae evaluate` reports k-hat and the effective sample size of each datum and shows the worst as
#   pictures.

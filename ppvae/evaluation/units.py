"""Active units: latent dimensions whose posterior mean moves with the datum."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.built import Built
from ppvae.evaluation.means import batches, evaluating
from ppvae.tracing import DATA_PLATE, sample_sites

THRESHOLD = 0.01


def active_units(built: Built, split: Any, *, seed: int = 0, rows: int = 512) -> dict[str, int]:
    """By site, the number of dimensions u with Var_x(E_q[z_u | x]) > 0.01, for continuous local latents.

    Reference: Burda et al. (2016), section 5.2. The mean is q's own, given draws of its parents; sites whose
    distribution has no mean or is discrete are left out.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    n = 0
    with evaluating(built, seed), built.local():
        for batch in batches(built, split, rows):
            inputs = built.inputs(batch)
            trace = poutine.trace(built.run_guide).get_trace(**inputs)
            count = 1
            for name, mean in _means(trace).items():
                mean, count = mean.double(), len(mean)
                first, second = sums.get(name, (0, 0))
                sums[name] = (first + mean.sum(0), second + mean.square().sum(0))
            n += count
    return {
        name: int((second / n - (first / n) ** 2 > THRESHOLD).sum()) for name, (first, second) in sums.items()
    }


def _means(trace: Any) -> dict[str, Tensor]:
    found = {}
    for name, site in sample_sites(trace).items():
        frames = {frame.name: frame for frame in site["cond_indep_stack"]}
        if site["fn"].support.is_discrete or DATA_PLATE not in frames or len(frames) > 1:
            continue
        try:
            mean = site["fn"].mean
        except (NotImplementedError, AttributeError):
            continue
        if torch.is_tensor(mean) and mean.shape == site["value"].shape:
            found[name] = mean
    return found

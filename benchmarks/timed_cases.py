"""What `step_time.py` times, and what was asked for before it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from contestants import Case, pyro_elbo, pyro_iwae
from interleaved import ratio
from sequences import PAIR as SEQUENCES
from twins import conv_twin, dreg, elbo, iwae, mlp_twin, recurrent_twin

from ppvae.registry import find as find_pair

MLP: dict[str, Any] = {"hidden": (400,), "latent": 20}
"""784-400-20: the sizes of the published VAE."""


def _mlp(estimator: str, loss: Any, steps: int, **options: Any) -> Case:
    twin = partial(mlp_twin, MLP["hidden"], MLP["latent"])
    return Case(find_pair("vae"), estimator, twin, loss, steps, MLP, **options)


def cases() -> dict[str, Case]:
    """What is timed, by name."""
    return {
        "mlp": _mlp("elbo", elbo, 40, pyro_loss=pyro_elbo, particles=1),
        "iwae_5": _mlp("iwae:particles=5", iwae(5), 15, pyro_loss=pyro_iwae(5), particles=5),
        "iwae_50": _mlp("iwae:particles=50", iwae(50), 3, pyro_loss=pyro_iwae(50), particles=50),
        "dreg_5": _mlp("dreg:particles=5", dreg(5), 15),
        "vae": Case(
            *(find_pair("vae"), "elbo", partial(mlp_twin, (400, 400), 20), elbo, 25), pyro_loss=pyro_elbo
        ),
        "conv_vae": Case(find_pair("conv_vae"), "elbo", conv_twin, elbo, 5, pyro_loss=pyro_elbo),
        "recurrent": Case(SEQUENCES, "elbo", recurrent_twin, elbo, 10, pyro_loss=pyro_elbo),
    }


LIMITS = [
    *((case, "ours graph", "hand traced", 1.02) for case in cases() if case != "dreg_5"),
    *((case, "ours graph", "hand compiled", 1.0) for case in cases()),
    *((case, "ours graph", "Pyro SVI", 0.65) for case in ("mlp", "iwae_5", "iwae_50", "vae")),
    *((case, "ours graph", "ours eager", 0.9) for case in ("iwae_5", "dreg_5")),
    *zip(("mlp", "iwae_5", "iwae_50"), ["ours graph"] * 3, ["NumPyro"] * 3, (1.0, 0.98, 0.9), strict=True),
    *((case, "ours graph bf16", "NumPyro", 0.75) for case in ("mlp", "iwae_5", "iwae_50")),
]
"""What is to hold: in this case the first takes at most so much of the second's time.

The twin of `dreg_5` goes back through the decoder once, with a hook; ours twice, which serves every hierarchy
of latents. What that costs is no price of Pyro's, and has no limit.
"""


def held(results: dict[str, dict], each: Sequence[dict[str, dict]] = ()) -> list[dict[str, Any]]:
    """Each limit of a case that was timed, with its ratio, its interval, and whether it holds; and the ratio
    in each of the processes that `results` are made of."""
    found = []
    for case, first, second, limit in LIMITS:
        times = results.get(case, {}).get("milliseconds", {})
        if case not in results or (second == "NumPyro" and second not in times):
            continue
        line: dict[str, Any] = {"case": case, "first": first, "second": second, "limit": limit}
        if first in times and second in times:
            line |= ratio(times[first], times[second])
            parts = [part[case]["milliseconds"] for part in each]
            line |= {"each": [ratio(p[first], p[second])["ratio"] for p in parts]} if parts else {}
        found.append(line | {"holds": line.get("ratio", float("inf")) <= limit})
    return found

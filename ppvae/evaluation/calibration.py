"""Simulation-based calibration of the guide: ranks of the latents that made the data among draws of q.

    z0 ~ p(z),  x ~ p(x | z0),  z_1 .. z_L ~ q(z | x),  rank_d = #{l: z_ld < z0_d}  in 0 .. L

If q(z | x) is the posterior, z0 is one more draw of it, and every rank is uniform. A guide that is too narrow
piles them up at both ends, one too wide in the middle, a shifted one at one end. Equal values are ordered by
lot, so that discrete latents have uniform ranks, too. A guide that ignores the data, q = p(z), passes in
every dimension of z; it is found by one further quantity, the rank of log p(x | z0) among log p(x | z_l).

What is asked is whether q is right *on average over the model's own data*, never whether the model fits, and
not how q does at the data one has.

References: Cook, Gelman & Rubin (2006); Talts, Betancourt, Simpson, Vehtari & Gelman (2018), Validating
Bayesian Inference Algorithms with Simulation-Based Calibration, arXiv:1804.06788; Yao, Vehtari, Simpson &
Gelman (2018), Yes, but Did It Work?, arXiv:1802.02538 (for guides, by dimension); Modrak et al. (2023),
Simulation-Based Calibration Checking for Bayesian Computation, arXiv:2211.02383 (the likelihood's rank).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppvae.built import Built
from ppvae.dreaming import at_dreamed
from ppvae.errors import PairError, PPVAEError, UsageError
from ppvae.evaluation.importance import cut
from ppvae.evaluation.means import evaluating
from ppvae.evaluation.simulation import simulated
from ppvae.shapes import Float, Int
from ppvae.terms import Terms

LEVEL = 0.01
"""A guide fails where the smallest p-value, times the number of ranks looked at, is below this."""
LIKELIHOOD = "log p(x | z)"
WORST = 12
"""Histograms that are kept, of the smallest p-values."""
_BINS, _FEWEST = 20, 5


@dataclass(frozen=True)
class Ranks:
    """Ranks by quantity: a latent site, (n, D), or the log-likelihood, (n, 1); each in 0 .. draws."""

    draws: int
    ranks: dict[str, Int[Tensor, "n D"]]


def calibration_ranks(built: Built, split: Any, *, n: int = 1000, draws: int = 99, seed: int = 0) -> Ranks:
    """Simulate n data from the model and rank what made each among `draws` draws of the guide.

    Args:
        split: where conditions, masks and lengths are taken from, row by row and again from the first; of
            its observed fields nothing is used.

    Raises:
        UsageError: n or draws below one.
        PairError: the model cannot be drawn from, or what it draws is no latent of each datum.
    """
    if n < 1 or draws < 1:
        raise UsageError(f"n={n}, draws={draws}: use at least 1 of each")
    found: dict[str, list[Tensor]] = {}
    with evaluating(built, seed):
        for given in _givens(built, split, n, draws):
            for name, ranks in _ranks(built, given, draws).items():
                found.setdefault(name, []).append(ranks.cpu())
    return Ranks(draws, {name: torch.cat(parts) for name, parts in found.items()})


def _givens(built: Built, split: Any, n: int, draws: int) -> Iterator[dict[str, Tensor]]:
    """Batches of n rows in all, over and over the split, as many at a time as scoring takes."""
    index = torch.arange(n, device=split.device) % len(split)

    def rows(start: int, count: int) -> dict[str, Tensor]:
        batch = split.batch(index[start : start + count])
        return built.inputs({name: value.to(built.device) for name, value in batch.items()})

    at_once = cut(built, rows(0, min(n, 100)), draws)[0]
    for start in range(0, n, at_once):
        yield rows(start, at_once)


def _ranks(built: Built, given: dict[str, Tensor], draws: int) -> dict[str, Tensor]:
    batch, truth = _simulate(built, given)
    _refuse(built.score(batch))
    # Scored like any other draw: masks and plates count alike on both sides.
    own = built.score(batch, draw=at_dreamed(truth))
    mine = _quantities(own, 1)
    counts = {name: (torch.zeros_like(v[0], dtype=torch.long),) * 2 for name, v in mine.items()}
    done, chunk = 0, cut(built, batch, draws)[1]
    while done < draws:
        terms = built.score(batch, min(chunk, draws - done))
        for name, values in _quantities(terms, terms.particles).items():
            away = values - mine[name]
            tied = away.abs() <= (_rounding(mine[name]) if name == LIKELIHOOD else 0.0)
            smaller, equal = counts[name]
            counts[name] = (smaller + ((away < 0) & ~tied).sum(0), equal + tied.sum(0))
        done += terms.particles
    return {name: by_lot(smaller, equal) for name, (smaller, equal) in counts.items()}


def _simulate(built: Built, given: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(data that the model drew, with what was given; their latents by site)."""
    try:
        return simulated(built, given)
    except PPVAEError:
        raise
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PairError(f"the model cannot be drawn from ({first})") from error


def _refuse(terms: Terms) -> None:
    if terms.expected:
        raise PairError(f"the guide enumerates {terms.expected[0]!r}: there are no draws to rank among")
    drawn = [site for site in terms.sites.values() if site.q is not None]
    if not drawn:
        raise PairError("the guide draws no latent")
    for site in drawn:
        if site.kind != "local":
            raise PairError(f"latent {site.name!r} is not of one datum: one data set gives one rank of it")


def _quantities(terms: Terms, particles: int) -> dict[str, Float[Tensor, "K B D"]]:
    """What is ranked, by name: each latent that the guide draws, and log p(x | z)."""
    found = {LIKELIHOOD: terms.log_likelihood.unsqueeze(-1)}
    for site in terms.sites.values():
        if site.q is not None:
            # One draw has no plate of its own; the data lie left of the event, and inner plates left of them.
            value = site.value if particles > 1 else site.value.unsqueeze(0)
            value = value.movedim(value.dim() - 1 - len(site.q.event_shape), 1)
            found[site.name] = value.flatten(2) if value.dim() > 2 else value.unsqueeze(-1)
    return found


def _rounding(value: Tensor) -> Tensor:
    """What may come between two sums that are equal, taken in batches of different shapes: latents of few
    values tie in log p(x | z), and which side rounding puts them on is the same for all draws of a datum."""
    return 64 * torch.finfo(value.dtype).eps * value.abs().clamp(min=1.0)


def by_lot(smaller: Int[Tensor, "n D"], equal: Int[Tensor, "n D"]) -> Int[Tensor, "n D"]:
    """The rank of a value above `smaller` others: among m equal ones its place is drawn from 0 .. m."""
    places = torch.rand(smaller.shape, dtype=torch.float64, device=smaller.device) * (equal + 1)
    return smaller + places.long()


def bins_for(n: int, draws: int) -> int:
    """The largest number of equal bins of the draws + 1 ranks, 20 at most, of at least 5 expected counts."""
    most = max(2, min(_BINS, n // _FEWEST))
    return max(bins for bins in range(1, most + 1) if (draws + 1) % bins == 0)


def calibration_summary(found: Ranks) -> dict[str, Any]:
    """The entry of evaluation.json.

    Over everything that was ranked, the smallest chi^2 p-value by Bonferroni and the verdict; by quantity and
    dimension the p-value, `shift` = mean(u) - 1/2 and `spread` = 12 var(u) - 1, with
    u = (rank + 1/2) / (L + 1), both 0 if uniform: a spread above 0 says that q is too narrow, one below 0
    that it is too wide. `worst` has the counts.
    """
    n = len(next(iter(found.ranks.values())))
    bins = bins_for(n, found.draws)
    by_quantity: dict[str, dict[str, Any]] = {}
    rows = []
    for name, ranks in found.ranks.items():
        counts = torch.stack([(ranks * bins // (found.draws + 1) == b).sum(0) for b in range(bins)], 1)
        unit = (ranks.double() + 0.5) / (found.draws + 1)
        columns = {
            "p_value": uniform_p_value(counts),
            "shift": unit.mean(0) - 0.5,
            "spread": 12 * unit.var(0, correction=0) - 1,
        }
        by_quantity[name] = {key: values.tolist() for key, values in columns.items()}
        for d in range(ranks.shape[1]):
            row = {key: values[d] for key, values in by_quantity[name].items()}
            rows.append({"quantity": name, "dimension": d, **row, "counts": counts[d].tolist()})
    rows.sort(key=lambda row: row["p_value"])
    p_value = min(1.0, len(rows) * rows[0]["p_value"])
    return {
        "n": n,
        "draws": found.draws,
        "bins": bins,
        "ranked": len(rows),
        "p_value": p_value,
        "level": LEVEL,
        "passed": p_value >= LEVEL,
        "failing": sum(row["p_value"] * len(rows) < LEVEL for row in rows),
        "quantities": by_quantity,
        "worst": rows[:WORST],
    }


def uniform_p_value(counts: Int[Tensor, "D bins"]) -> Float[Tensor, " D"]:
    """Of chi^2 = sum (count - expected)^2 / expected in bins - 1 degrees of freedom, by row; float64."""
    seen = counts.double()
    expected = seen.sum(1, keepdim=True) / seen.shape[1]
    chi2 = ((seen - expected).square() / expected).sum(1)
    freedom = torch.full_like(chi2, (seen.shape[1] - 1) / 2)
    return torch.special.gammaincc(freedom, chi2 / 2)

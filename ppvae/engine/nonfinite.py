"""Where a loss or a gradient that is no number came from: the batch once more, with everything looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.engine.eager import EagerStep
from ppvae.engine.svi import SVIStep
from ppvae.errors import PPVAEError
from ppvae.terms import Terms


def explain(
    step: EagerStep | SVIStep,
    given: Any,
    knobs: Mapping[str, Tensor],
    rows: Sequence[int],
    random_state: Tensor | None = None,
) -> str:
    """The latent, the site or the parameter that is not finite first, with the data it is so for; one line.

    Args:
        rows: where the data of the batch lie in the training data.
        random_state: of the CPU's generator before the step, to draw what it drew.
    """
    built, estimator = step.built, step.estimator
    try:
        batch = step.read(given)
        terms = _again(lambda: estimator.score(built, batch, knobs), random_state, validate=False)
        found = _in_terms(terms, rows)
        if found is not None:
            return found
        if isinstance(step, SVIStep):
            return "all terms are finite now"
        again = _again(lambda: step.differentiate(given, knobs), random_state, validate=True)
    except (ValueError, RuntimeError, PPVAEError) as error:  # what Pyro's validation says, torch, or we
        return str(error).splitlines()[0].rstrip(":; ")
    scalars, gradients = again
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    for parameter, gradient in gradients:
        if not bool(gradient.isfinite().all()):
            name = names.get(id(parameter), "a parameter of the estimator")
            return f"the gradient of {name} has {_word(gradient)}, while all terms are finite"
    if not bool(scalars["loss"].isfinite()):
        return f"the objective of {type(estimator).__name__} is not finite, while all terms are"
    return "it did not come again with other draws of the latents"


def _again(compute: Callable[[], Any], random_state: Tensor | None, validate: bool) -> Any:
    """What it computes from that random state; the present one stays."""
    with torch.random.fork_rng(), pyro.validation_enabled(validate):
        if random_state is not None:
            torch.set_rng_state(random_state)
        return compute()


def _in_terms(terms: Terms, rows: Sequence[int]) -> str | None:
    """The first draw or log-probability that is not finite."""
    for site in terms.sites.values():
        drawn = site.q is not None and site.value.is_floating_point()
        if drawn and not bool(site.value.isfinite().all()):
            return f"latent {site.name!r} was drawn as {_word(site.value)}{_where(site.log_q, rows)}"
        for word, value in (("log q", site.log_q), ("log p", site.log_p)):
            if value is not None and not bool(value.isfinite().all()):
                return f"{word} of site {site.name!r} is {_word(value)}{_where(value, rows)}"
    return None


def _where(value: Tensor | None, rows: Sequence[int]) -> str:
    """For which data a term (K, B) is not finite."""
    if value is None or value.dim() < 2 or value.shape[-1] != len(rows):
        return ""
    bad = (~value.isfinite()).any(0).nonzero().flatten().tolist()
    shown = ", ".join(str(rows[i]) for i in bad[:5]) + (", ..." if len(bad) > 5 else "")
    return f" for {len(bad)} of {len(rows)} data, rows {shown}" if bad else ""


def _word(value: Tensor) -> str:
    """nan, inf or -inf: the first that there is."""
    return str(value.detach()[~value.isfinite()].flatten()[0].item())

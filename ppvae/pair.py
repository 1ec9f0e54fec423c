"""A pair: a generative model and the guide that inverts it, with what they need and promise.

A `Pair` is a recipe: importing one builds no net. `ppvae.build.build(pair, dataset, seed=0)` makes
its modules. This file is a leaf, so that any other file may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from pyro.poutine.runtime import effectful
from torch import Tensor

Handling = Literal["enumerate", "score", "reparameterized"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model p(x, z) and a matching amortized guide q(z | x).

    Model and guide are plain Pyro callables of one signature,

        model(x=None, *, y=None, mask=None, lengths=None, n=None)
        guide(x, *, the same)

    of which each takes the arguments that it needs. What is a class here is built by `build`, after
    seeding; what is a function is used as it is.
    """

    model: Callable[..., Any]
    """A class whose instances are the model, or the model function itself."""
    guide: Callable[..., Any] | None = None
    """Likewise; a class is called with the built model as its first argument. None: the built model
    has two methods called `model` and `guide`, as in Pyro's tutorials."""
    data: str | None = "digits"
    """Name of the data set that `ppvae train` uses unless told otherwise; None: the pair has no data."""
    plates: int = 1
    """How many plate dimensions there are, the data plate (dim -1) included. Never guessed."""
    observed: tuple[str, ...] = ("x",)
    """Data fields that the model scores, each by a sample statement of the same name."""
    conditions: tuple[str, ...] = ()
    """Data fields that are given and never modelled; a missing one is an error."""
    discrete: Mapping[str, Handling] = field(default_factory=dict)
    """How each discrete latent is handled, by site: "enumerate" or "score". A name such as "z*" stands for
    all sites that it fits, where a size of the pair says how many there are; not with "enumerate"."""
    bound: Literal["elbo", "exact", "none"] = "elbo"
    """What the objective is: a lower bound, log p(x) itself, or not a bound at all."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further optimizer groups by name: attribute paths such as `("model.critic",)`. Their parameters
    leave the groups `model` and `guide`, and follow only the losses and penalties of their group."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments that differ from the defaults of the model's and the guide's classes."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Options of training that suit the pair, such as epochs and lr; what the user gives wins."""
    evidence: Callable[..., Any] | None = None
    """Where known, `evidence(model, batch) -> log p(x)` of shape (B,), in nats."""
    posterior: Callable[..., Any] | None = None
    """Where known, `posterior(model, batch) -> {site: distribution}`, the exact p(z | x) of batch shape (B,):
    a law for each latent site, given x and the sites before it in the mapping. One that reads these is a
    function of their values, `law({site: value}) -> distribution`. `posterior_draws` draws all of them."""
    elbo: Callable[..., Any] | None = None
    """Where known, `elbo(model, guide, batch) -> (B,)`: the exact ELBO, differentiable in both, in nats."""
    vectorize: bool | None = None
    """False: one particle at a time. None: all at once, unless there is a BatchNorm, which would mix them.
    True: all at once in any case."""
    latent: str = ""
    """The latent variables in a few words, for the table of pairs."""
    reference: str = ""
    """Authors, year, title, identifier."""
    name: str = ""
    """Filled in by the registry."""

    def handling(self, site: str) -> Handling | None:
        """What `discrete` says of a site, by its name or else by the first pattern that fits."""
        if site in self.discrete:
            return self.discrete[site]
        return next((how for pattern, how in self.discrete.items() if fnmatchcase(site, pattern)), None)


def posterior_draws(laws: Mapping[str, Any], n: int) -> dict[str, Tensor]:
    """n joint draws for each datum of what `Pair.posterior` returns: by site, (n, B) + event shape."""
    values: dict[str, Tensor] = {}
    for name, law in laws.items():
        is_distribution = hasattr(law, "log_prob")
        values[name] = law.sample((n,)) if is_distribution else law(values).sample()
    return values


def penalty(name: str, value: Tensor, group: str | None = None) -> Tensor:
    """Add `value` to the loss, outside the bound: a commitment loss, L1 on a code, a critic's loss.

    Written inside a model or a guide. `value` is a scalar or per datum, in nats per datum; its mean is
    added to the loss of `group` (by default to every loss but those of the pair's further groups).
    It is logged as `penalty/<name>` and never enters log p, log q or the bound. Stock Pyro has no
    handler for this message and passes it by.
    """
    return _penalty(value, group, name=name)


@effectful(type="penalty")
def _penalty(value: Tensor, group: str | None = None) -> Tensor:
    return value

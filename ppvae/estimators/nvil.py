"""The score function with a learned baseline that reads the data, and each latent's own learning signal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.built import Built
from ppvae.errors import PairError
from ppvae.estimators.base import Claims, Knobs, knob
from ppvae.estimators.elbo import ELBO
from ppvae.estimators.objective import Objective
from ppvae.estimators.provenance import independent_of
from ppvae.looking import looking
from ppvae.nets import MLP
from ppvae.shapes import Float
from ppvae.terms import Site, Terms


class NVIL(ELBO):
    """L(x) = E_q[log w] by the mean of K draws; for each latent z_i that is not reparameterized

        d L / d phi = E[(l_i - C_i(x) - c_i) d log q(z_i | ...) / d phi].

    l_i, the signal of z_i, is log w less the terms that cannot depend on z_i: log q of what the guide draws
    before it, and log p of what the model needs such draws alone for (`ppvae.estimators.provenance`). C_i(x)
    is a net with one hidden layer that predicts l_i - c_i from the observed fields and the conditions of a
    datum, by least squares in the optimizer group `estimator`; c_i is a running mean of l_i - C_i(x).

    Lower bound; unbiased, value and gradient: C_i and c_i know the datum and the past, never the draw.
    Variance: what the baselines leave of the signals'. With `normalize` the signal is divided by
    max(1, running standard deviation), as in the paper: steps of even size, but the guide's gradient is then
    off by a factor, of its own for each latent.

    Running figures are buffers that move in training mode, as made, and rest after `.eval()`. The baselines
    are those of the first pair that is estimated. Refused: global latents that are not reparameterized.

    Knob: `beta` weighs the rate in what is optimized, as in `elbo`; the reported bound has beta = 1.

    Reference: Mnih & Gregor (2014), arXiv:1402.0030. Departure: a batch is centered by the figures of the
    batches before it, not by its own, which would couple its data and bias the gradient.
    """

    running_mean: Tensor
    running_variance: Tensor
    batches: Tensor

    def __init__(
        self,
        particles: int = 1,
        hidden: int = 100,
        decay: float = 0.9,
        normalize: bool = False,
        beta: float = 1.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, beta, sites=sites)
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: a net has at least one hidden unit")
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: a running mean keeps a share of its past, from 0 to below 1")
        self.hidden, self.decay, self.normalize = hidden, decay, normalize
        self.claims = Claims(bound="lower", biased=("guide",) if normalize else ())
        self.names: tuple[str, ...] | None = None
        """The latents that have a baseline; None until `prepare`."""
        self.fields: tuple[str, ...] = ()
        """What the baselines read of a batch."""
        self.net: MLP | None = None

    def prepare(self, built: Built, batch: Mapping[str, Tensor]) -> None:
        """Make the net, with one output for each latent that needs a baseline; all are zero at first."""
        if self.names is not None:
            return
        inputs = built.inputs(batch)
        kept = (*built.pair.observed, *built.pair.conditions)
        self.fields = tuple(name for name in inputs if name in kept)
        with looking(built):  # the first weights depend on nothing but the sizes
            terms = self.score(built, batch, {})
            self.names = tuple(site.name for site in _scored(terms))
            features = self._features(terms)
            if self.names:
                self.net = MLP(features.shape[-1], len(self.names), (self.hidden,), nn.Tanh)
                last: Any = self.net.layers[-1]
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
                self.net.to(features)
        self.register_buffer("running_mean", features.new_zeros(len(self.names)))
        self.register_buffer("running_variance", features.new_zeros(len(self.names)))
        self.register_buffer("batches", features.new_zeros(()))

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        given = {name: value for name, value in knobs.items() if name != "free_bits"}
        found = super().objective(terms, given)
        sites = _scored(terms)
        if not sites:
            return found
        predicted = self._predicted(terms, sites)
        errors: dict[int, Tensor] = {}
        surrogate, miss = terms.like.new_zeros(()), terms.like.new_zeros(())
        for site in sites:
            i = self.names.index(site.name)  # type: ignore[union-attr]
            error = signal(site, terms, knob(knobs, "beta", self.beta)) - predicted[:, i]  # (K, B)
            centered = error - self.running_mean[i]
            miss = miss + centered.square().mean()
            scale = self.running_variance[i].sqrt().clamp(min=1.0) if self.normalize else 1.0
            term = ((centered / scale).detach() * torch.as_tensor(site.law)).mean()
            surrogate = surrogate + term - term.detach()
            errors[i] = error.detach()
        if self.training and torch.is_grad_enabled():
            self._remember(errors)
        return dataclasses.replace(found, losses={"all": found.losses["all"] - surrogate, "estimator": miss})

    def _score_function(self, terms: Terms, local: Tensor, outside: Tensor) -> Tensor:
        return torch.zeros_like(local.mean())  # each latent has a signal of its own, in `objective`

    def _predicted(self, terms: Terms, sites: list[Site]) -> Float[Tensor, "B sites"]:
        if self.names is None:
            raise PairError("nvil learns baselines, which SVI would not train: use ppvae.fit, or reinforce")
        features = self._features(terms)
        known = {site.name for site in sites} <= set(self.names)
        if self.net is None or not known or features.shape[1:] != self.net.in_shape:
            raise PairError(
                f"nvil was prepared for the latents {', '.join(self.names) or 'of another pair'} and other "
                "sizes of the data: make a new NVIL() for this pair"
            )
        return self.net(features)

    def _features(self, terms: Terms) -> Float[Tensor, "B features"]:
        """What is observed or given of each datum, in one row; a constant where there is nothing."""
        rows = [terms.inputs[name].reshape(terms.rows, -1) for name in self.fields]
        return torch.cat([row.to(terms.like) for row in rows] or [terms.like.new_ones(terms.rows, 1)], -1)

    @torch.no_grad()
    def _remember(self, errors: dict[int, Tensor]) -> None:
        """Plain means over the first batches, which then fade out."""
        share = torch.clamp(1 / (self.batches + 1), min=1 - self.decay)
        for i, error in errors.items():
            self.running_mean[i] += share * (error.mean() - self.running_mean[i])
            spread = (error - self.running_mean[i]).square().mean()
            self.running_variance[i] += share * (spread - self.running_variance[i])
        self.batches += 1


def signal(site: Site, terms: Terms, beta: Tensor | float = 1.0) -> Float[Tensor, "K B"]:
    """The terms of log w that can depend on the draw of this site, without a gradient."""
    known_p, known_q = independent_of(terms, site.name)
    total = terms.log_likelihood + (terms.log_shared * terms.rows / terms.num_data).unsqueeze(1)
    for other in terms.of("local", "bound"):
        if other.name not in known_p:
            total = total + beta * other.log_p
        if other.name not in known_q and other.log_q is not None:
            total = total - beta * other.log_q
    return total.detach()


def _scored(terms: Terms) -> list[Site]:
    """The latents that the score function differentiates.

    Raises:
        PairError: one of them is global.
    """
    found = [site for site in terms.sites.values() if site.how == "score" and site.law is not None]
    for site in found:
        if site.kind == "global":
            raise PairError(
                f"nvil has a baseline for each datum, but {site.name!r} lies outside the data plate: use "
                "elbo or reinforce"
            )
    return found

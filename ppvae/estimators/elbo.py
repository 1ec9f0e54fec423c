"""The evidence lower bound, Pyro's Trace_ELBO: the default."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppvae.estimators.base import Claims, Estimator, Functional, Knobs, knob
from ppvae.estimators.functionals import mean
from ppvae.estimators.objective import Objective
from ppvae.shapes import Float
from ppvae.terms import Site, Terms


class ELBO(Estimator):
    """L(x) = E_q[log p(x, z) - log q(z | x)], by the mean of K draws.

    Lower bound; unbiased, value and gradient; variance ~ 1/K. Reparameterized latents are differentiated
    through their draws; others by the score function, grad log q(z | x) (log w), per datum (no baseline;
    global latents must not be drawn given local ones). A mask or a scale weighs a term of log w, never the
    score.
    Global latents enter once, divided by the number of data N.

    Knobs: `beta` weighs the rate in what is optimized, distortion + beta * rate (Higgins et al. 2017; a
    warm-up schedules it from 0). `free_bits` = lambda replaces each local site's rate by max(batch mean of
    the rate, lambda), in nats per datum (Kingma et al. 2016, section C.8). The reported bound always has
    beta = 1 and no free bits.

    Reference: Kingma & Welling (2014), arXiv:1312.6114; Ranganath et al. (2014), arXiv:1401.0118. Equals
    `pyro.infer.Trace_ELBO` in value and gradient under one seed, which is this times the number of rows; not
    so the gradient of discrete latents in inner plates, where Pyro's has less variance, and beside global
    ones, where it has more.
    """

    claims = Claims(bound="lower")

    def __init__(
        self,
        particles: int = 1,
        beta: float = 1.0,
        free_bits: float = 0.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, sites)
        if free_bits < 0:
            raise ValueError(f"free_bits={free_bits}: a rate is 0 or more, and so is its floor")
        self.beta, self.free_bits = beta, free_bits

    def targets(self) -> Mapping[str, Functional]:
        return dict.fromkeys(("bound", "model", "guide"), mean)

    def site_ratio(self, site: Site, terms: Terms) -> Tensor:
        """log p - log q of one latent; the analytic variant replaces it by -KL."""
        if site.how == "score" and site.log_q is not None:
            # E[grad log q] = 0: left in, it adds nothing but variance to log w grad log q.
            return site.log_p - site.log_q.detach()
        return site.log_ratio

    def objective(self, terms: Terms, knobs: Knobs) -> Objective:
        beta = knob(knobs, "beta", self.beta)
        ratios = {s.name: self.site_ratio(s, terms) for s in terms.of("local", "bound")}
        outside = {s.name: self.site_ratio(s, terms) for s in terms.of("global")}
        observed_outside = terms.log_shared
        log_likelihood = terms.log_likelihood
        rate = self._free([-r for r in ratios.values()], knobs, log_likelihood)
        global_rate = -sum(outside.values(), torch.zeros_like(terms.log_global))
        optimized = log_likelihood - beta * rate
        global_part = (observed_outside - beta * global_rate) / terms.num_data
        loss = -optimized.mean() - global_part.mean()
        loss = loss - self._score_function(terms, optimized, global_part)
        bound = log_likelihood.mean(0) + sum(
            (r.mean(0) for r in ratios.values()), torch.zeros_like(log_likelihood[0])
        )
        bound = bound + (observed_outside - global_rate).mean() / terms.num_data
        return Objective(bound.detach(), {"all": loss})

    def _free(self, rates: list[Tensor], knobs: Knobs, like: Tensor) -> Float[Tensor, "K B"]:
        """The sum of the local rates, each not below `free_bits` in the mean."""
        floor = knob(knobs, "free_bits", self.free_bits)
        total = torch.zeros_like(like)
        for rate in rates:
            if isinstance(floor, Tensor) or floor > 0:
                rate = torch.where(rate.mean() > floor, rate, torch.zeros_like(rate) + floor)
            total = total + rate
        return total

    def _score_function(self, terms: Terms, local: Tensor, outside: Tensor) -> Tensor:
        """A surrogate of value zero whose gradient is the score-function term of the sites that need one."""
        total = torch.zeros_like(local.mean())
        for site in terms.sites.values():
            if site.how != "score" or site.law is None:
                continue
            signal = local / local.shape[0] / local.shape[1]
            if site.kind == "global":
                signal = signal.sum(1) + outside / outside.shape[0]
            elif terms.has_global:  # what is observed of all data together may read this latent
                signal = signal + (terms.log_shared / terms.num_data / len(local)).unsqueeze(1)
            term = (self.centered(signal.detach()) * site.law).sum()
            total = total + term - term.detach()
        return total

    def centered(self, signal: Tensor) -> Tensor:
        """The learning signal of one site, (K, B) or (K,), less a baseline: none here."""
        return signal

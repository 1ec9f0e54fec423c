"""RELAX: REBAR with a net beside the relaxation in its control variate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ppvae.built import Built
from ppvae.errors import PairError
from ppvae.estimators import sites as per_site
from ppvae.estimators.blocks import Signal, look
from ppvae.estimators.rebar import REBAR
from ppvae.estimators.relaxations import kind_of, soften
from ppvae.looking import looking
from ppvae.nets import MLP
from ppvae.terms import Site
from ppvae.wrapped import innermost


class RELAX(REBAR):
    """d E_q[f(b)] / d a = E[(f(b) - c(z~)) d log q(b) / d a + d c(z) / d a - d c(z~) / d a],

        c(z) = h f(soft_T(z)) + sum_sites r(soft_1(z), a),

    as `rebar`, with a net r for each discrete latent: one hidden layer, from the relaxed latent at
    temperature 1 and, as what it knows of the datum, the logits, in which it is not differentiated. Any c
    leaves the mean as it is; T, h and the nets learn to make the variance small. The nets give zero at first,
    where RELAX is REBAR.

    Lower bound (the ELBO, over the hard draws); unbiased, value and gradient. Needs what `rebar` needs.

    Args:
        hidden: width of the nets.
        particles, temperature, eta, learn, beta: as in `rebar`; eta = 0 with learn = false would leave the
            nets alone.

    Reference: Grathwohl, Choi, Wu, Roeder & Duvenaud (2018), arXiv:1711.00123.
    """

    def __init__(
        self,
        particles: int = 1,
        temperature: float = 0.5,
        eta: float = 1.0,
        hidden: int = 50,
        learn: bool = True,
        beta: float = 1.0,
        sites: Mapping[str, str] | None = None,
    ):
        super().__init__(particles, temperature, eta, learn, beta, sites)
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: a net has at least one hidden unit")
        self.hidden = hidden
        self.names: tuple[str, ...] = ()
        self.nets = nn.ModuleList()

    def prepare(self, built: Built, batch: Mapping[str, Tensor]) -> None:
        """Make a net for each discrete latent of the guide."""
        if self.names:
            return
        found = look(
            built,
            batch,
            type(self).__name__,
            enumerated=per_site.enumerated(self.sites, built.enumerated),
            draw=self.drawing({}),
        ).discrete
        with looking():  # the first weights depend on nothing but the sizes
            for name, q in found.items():
                kind_of(q, name)
                logits: Tensor = innermost(q).logits  # type: ignore[attr-defined]
                net = MLP(2 * math.prod(q.event_shape), 1, (self.hidden,), nn.Tanh)
                nn.init.zeros_(net.layers[-1].weight)  # type: ignore[arg-type]
                nn.init.zeros_(net.layers[-1].bias)  # type: ignore[arg-type]
                self.nets.append(net.to(logits).requires_grad_(self.learn))
        self.names = tuple(found)

    def _control(self, sites: list[Site], each: Signal) -> tuple[Signal, Signal]:
        soft, again = super()._control(sites, each)
        for site in sites:
            soft = self._with_net(soft, site, site.noise.perturbed)
            again = self._with_net(again, site, site.noise.again)
        return soft, again

    def _with_net(self, signal: Signal, site: Site, perturbed: Tensor) -> Signal:
        if site.name not in self.names:
            raise PairError(
                f"RELAX has no net for {site.name!r}, but for {', '.join(self.names) or 'no latent'}: make a "
                "new RELAX() for this pair and train with ppvae.fit, or use rebar"
            )
        event = len(site.q.event_shape)
        logits = site.noise.logits.detach()
        both = [soften(perturbed, site.noise.kind, 1.0), logits]
        features = torch.cat([v.flatten(-event) if event else v.unsqueeze(-1) for v in both], -1)
        found = self.nets[self.names.index(site.name)](features).squeeze(-1)  # (n, ..., B or 1)
        found = found.flatten(1, -2).sum(1) if found.dim() > 2 else found
        if site.kind == "global":
            return Signal(signal.local, signal.outside + found.sum(-1), signal.shared)
        if found.shape[1] != signal.local.shape[1]:  # without data there is one row, and plates of its own
            found = found.sum(1, keepdim=True)
        return Signal(signal.local + found, signal.outside, signal.shared)

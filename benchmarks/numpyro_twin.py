"""The MLP cases in NumPyro as its own example writes them: `SVI.update` in a jitted scan over some steps.

Same parameters at the start, same data as bytes on the device, gathered by index and converted in the step;
Adam at 1e-3; float32. Imports JAX, and so belongs behind an import inside a function.
"""

# pyright: reportMissingImports=false
# A peer that need not be there.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch
from jax import lax, random
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import Tensor

Weights = list[tuple[np.ndarray, np.ndarray]]


class NumPyroMLP:
    """`vae` with a Bernoulli likelihood: K = 1 is `Trace_ELBO`, more are `RenyiELBO` of order 0, the IWAE.

    Args:
        encoder, decoder: (weight (in, out), bias (out,)) of each layer; the encoder's last one is the head.
        data: (N, 784), bytes.
    """

    def __init__(self, encoder: Weights, decoder: Weights, data: np.ndarray, particles: int, lr: float):
        self.latent = len(encoder[-1][1]) // 2
        self.layers = {"encoder": encoder, "decoder": decoder}
        self.data = jnp.asarray(data)
        elbo = Trace_ELBO() if particles == 1 else RenyiELBO(alpha=0.0, num_particles=particles)
        self.svi = SVI(self.model, self.guide, numpyro.optim.Adam(lr), elbo)
        self.state = self.svi.init(random.PRNGKey(0), jnp.zeros((2, data.shape[1])))
        self._chunk = jax.jit(self._steps, donate_argnums=0)

    def net(self, name: str, x: Any) -> Any:
        for i, (weight, bias) in enumerate(self.layers[name]):
            x = x if i == 0 else jax.nn.relu(x)
            x = x @ numpyro.param(f"{name}_w{i}", jnp.asarray(weight))  # type: ignore[operator]
            x = x + numpyro.param(f"{name}_b{i}", jnp.asarray(bias))  # type: ignore[operator]
        return x

    def model(self, x: jax.Array) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=self.net("decoder", z)).to_event(1), obs=x)

    def guide(self, x: jax.Array) -> None:
        with numpyro.plate("data", len(x)):
            loc, raw = jnp.split(self.net("encoder", x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, 1e-5 + jax.nn.softplus(raw)).to_event(1))

    def _steps(self, state, order: jax.Array):
        def step(state, rows):
            return self.svi.update(state, self.data[rows].astype(jnp.float32))

        return lax.scan(step, state, order)

    def __call__(self, order: Sequence[Tensor]) -> float:
        """One step for each index tensor; the last loss, in nats per datum."""
        rows = jnp.asarray(torch.stack(list(order)).cpu().numpy())
        self.state, losses = self._chunk(self.state, rows)
        return float(losses[-1]) / rows.shape[1]

    def losses(self, rows: Tensor, draws: int) -> np.ndarray:
        """The loss of one batch at the present parameters under so many seeds, in nats per datum."""
        x = self.data[jnp.asarray(rows.cpu().numpy())].astype(jnp.float32)
        params = self.svi.get_params(self.state)
        loss = jax.jit(lambda key: self.svi.loss.loss(key, params, self.model, self.guide, x))
        return np.array([float(loss(random.PRNGKey(i))) for i in range(draws)]) / len(rows)


def weights_of(layers: Sequence[torch.nn.Linear]) -> Weights:
    """Copies of the layers' parameters as JAX takes them."""
    return [
        (la.weight.detach().cpu().numpy().T.copy(), la.bias.detach().cpu().numpy().copy()) for la in layers
    ]

"""A step traced for one kind of batch: loss and gradients as a flat graph, and the whole step compiled.

inputs, held -> loss, gradients           `Differentiated`, and torch's optimizers after it: `Halves`
inputs, rates, held -> loss, finite       `Whole`: Adam in the graph; parameters, moments, clocks in `held`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ppvae.engine.adam import Clock, Moments, advance, moments_of, tick
from ppvae.engine.compiling import Compiled, compiled
from ppvae.engine.eager import Differentiate, put_back
from ppvae.engine.flat import Flat, flat
from ppvae.engine.updates import Found, Updates, all_finite


class Differentiated:
    """`compute(given, knobs) -> (scalars, gradients)` as a flat graph, for what is given and the knobs of one
    kind; `buffers` are what it may write to."""

    def __init__(
        self,
        compute: Differentiate,
        given: Any,
        knobs: Mapping[str, Tensor],
        buffers: Iterable[Tensor] = (),
    ):
        inputs, self.spec = pytree.tree_flatten((given, dict(knobs)))
        self.count = len(inputs)
        self.names: tuple[str, ...] = ()
        self.parameters: list[nn.Parameter] = []

        def function(*inputs: Tensor) -> list[Tensor]:
            given, knobs = pytree.tree_unflatten(list(inputs), self.spec)
            scalars, found = compute(given, knobs)
            self.names = tuple(scalars)
            self.parameters = [parameter for parameter, _ in found]
            return [*scalars.values(), *(gradient for _, gradient in found)]

        self.buffers = list(buffers)
        """What the computation moves of them, once that is known; till then, all."""
        self.flat: Flat = flat(function, inputs, self.buffers)

    def inputs(self, given: Any, knobs: Mapping[str, Tensor]) -> list[Tensor]:
        """The inputs of the graph, in its order."""
        return pytree.tree_leaves((given, dict(knobs)))

    def named(self, outputs: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """(scalars by name, gradients) of the graph's outputs."""
        cut = len(self.names)
        return dict(zip(self.names, outputs[:cut], strict=True)), list(outputs[cut:])

    def __call__(self, given: Any, knobs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Found]:
        """What `differentiate` returns, replayed operation by operation."""
        scalars, gradients = self.named(self.flat(*self.inputs(given, knobs)))
        return scalars, list(zip(self.parameters, gradients, strict=True))


class Halves:
    """The flat graph for loss and gradients, and the optimizers of torch: replayed, it is bit-equal to the
    eager step."""

    def __init__(self, differentiated: Differentiated, updates: Updates):
        self.differentiated, self.updates = differentiated, updates
        self.call: Compiled = differentiated.flat.graph
        self.held = [tensor.detach() for tensor in differentiated.flat.held]

    def compile(self, given: Any, knobs: Mapping[str, Tensor]) -> None:
        """Replay no longer: run compiled. Raises CannotCompile."""
        example = [*self.differentiated.inputs(given, knobs), *self.held]
        self.call = compiled(self.differentiated.flat.graph, example)

    def __call__(
        self, given: Any, knobs: Mapping[str, Tensor], lr_factor: float = 1.0
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step: (scalars, whether all was finite)."""
        before = [(buffer, buffer.clone()) for buffer in self.differentiated.buffers]
        outputs = self.run(self.call, self.held, given, knobs, lr_factor)
        scalars, gradients = self.differentiated.named(outputs)
        found = list(zip(self.differentiated.parameters, gradients, strict=True))
        scalars, finite = self.updates.take(scalars, found, lr_factor)
        put_back(before, finite)
        return scalars, finite

    @torch.no_grad()
    def run(
        self,
        call: Compiled,
        held: Sequence[Tensor],
        given: Any,
        knobs: Mapping[str, Tensor],
        lr_factor: float,
    ) -> Sequence[Tensor]:
        """What `call`, compiled or not, returns; it moves the buffers in `held`, and nothing else."""
        return call(*self.differentiated.inputs(given, knobs), *held)

    def step(self, *tensors: Tensor) -> Sequence[Tensor]:
        """What is compiled."""
        return self.differentiated.flat.graph(*tensors)

    def resume(self) -> None:
        """The torch optimizers have all the state."""

    settle = resume


class Whole:
    """A compiled step with its optimizers inside: it changes parameters, buffers and moments in place."""

    def __init__(
        self,
        differentiated: Differentiated,
        updates: Updates,
        moments: dict[str, tuple[Moments, Clock]],
        given: Any,
        knobs: Mapping[str, Tensor],
    ):
        self.differentiated, self.updates = differentiated, updates
        self.moments = {name: found for name, (found, _) in moments.items()}
        self.clocks = {name: clock for name, (_, clock) in moments.items()}
        self.held = [tensor.detach() for tensor in differentiated.flat.held]
        self.held += [tensor for found in self.moments.values() for tensor in found.tensors]
        self.held += [tensor for clock in self.clocks.values() for tensor in clock.tensors]
        self._rates: tuple[list[float], list[Tensor]] = ([], [])
        example = [*differentiated.inputs(given, knobs), *self.rates(1.0), *self.held]
        self.call: Compiled = compiled(flat(self.step, example).graph, example)

    def __call__(
        self,
        given: Any,
        knobs: Mapping[str, Tensor],
        lr_factor: float = 1.0,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step: (scalars, whether all was finite)."""
        outputs = self.run(self.call, self.held, given, knobs, lr_factor)
        return dict(zip(self.differentiated.names, outputs, strict=False)), outputs[-1]

    @torch.no_grad()
    def run(
        self,
        call: Compiled,
        held: Sequence[Tensor],
        given: Any,
        knobs: Mapping[str, Tensor],
        lr_factor: float,
    ) -> Sequence[Tensor]:
        """What `call`, compiled or not, returns; it moves `held` in place, and nothing else."""
        return call(*self.differentiated.inputs(given, knobs), *self.rates(lr_factor), *held)

    def resume(self) -> None:
        """Take the step counts over from the torch optimizers."""
        for name, clock in self.clocks.items():
            state = self.updates.optimizers[name].state[self._members(name)[0]]
            clock.set(state["step"])

    def settle(self) -> None:
        """Hand the step counts back to the torch optimizers."""
        for name, clock in self.clocks.items():
            for parameter in self._members(name):
                self.updates.optimizers[name].state[parameter]["step"].copy_(clock.count)

    def _members(self, group: str) -> list[nn.Parameter]:
        reached = {id(parameter) for parameter in self.differentiated.parameters}
        return [p for p in self.updates.groups[group] if id(p) in reached]

    def rates(self, lr_factor: float) -> list[Tensor]:
        """The learning rate of each group as a tensor; the same tensors while it stays the same."""
        rates = self.learning_rates(lr_factor)
        if rates != self._rates[0]:
            clocks = self.clocks.values()
            self._rates = (rates, [c.factors.new_full((), r) for c, r in zip(clocks, rates, strict=True)])
        return self._rates[1]

    def learning_rates(self, lr_factor: float) -> list[float]:
        """Of each group, where the schedule stands at `lr_factor`."""
        return [self.updates.rate(name, lr_factor) for name in self.clocks]

    def step(self, *tensors: Tensor) -> list[Tensor]:
        """What is compiled: all that moves is an input."""
        left = list(tensors)

        def take(n: int) -> list[Tensor]:
            taken, left[:n] = left[:n], []
            return taken

        held = self.differentiated.flat.held
        inputs = take(self.differentiated.count)
        rates = take(len(self.moments))
        state = take(len(held))
        moved = [Moments(take(len(m.first)), take(len(m.second))) for m in self.moments.values()]
        clocks = [take(2) for _ in self.clocks]
        moving = {id(buffer) for buffer in self.differentiated.buffers}
        before = [(now, now.clone()) for was, now in zip(held, state, strict=True) if id(was) in moving]
        scalars, gradients = self.differentiated.named(self.differentiated.flat.graph(*inputs, *state))
        finite = all_finite([scalars["loss"], *gradients])
        put_back(before, finite)
        place = {id(tensor): now for tensor, now in zip(held, state, strict=True)}
        slope = {id(p): g for p, g in zip(self.differentiated.parameters, gradients, strict=True)}
        for name, own, (count, factors), rate in zip(self.moments, moved, clocks, rates, strict=True):
            members = self._members(name)
            grads = clipped([slope[id(p)] for p in members], self.updates.config.clip_norm)
            options = self.updates.optimizers[name].defaults
            advance(options, [place[id(p)] for p in members], grads, own, factors, rate, finite)
            tick(options, count, factors, count + finite)
        return [*scalars.values(), finite]


def clipped(gradients: list[Tensor], norm: float | None) -> list[Tensor]:
    """The gradients with a common norm of at most `norm`, as `torch.nn.utils.clip_grad_norm_` makes them."""
    if norm is None:
        return gradients
    total = torch.nn.utils.get_total_norm(gradients)
    factor = torch.clamp(norm / (total + 1e-6), max=1.0)
    return [gradient * factor for gradient in gradients]


def whole(
    differentiated: Differentiated, updates: Updates, given: Any, knobs: Mapping[str, Tensor]
) -> Whole | None:
    """The step compiled with clipping and Adam in its graph; None where the optimizers are others, or wait
    for other processes.

    Raises:
        CannotTrace, CannotCompile: with the reason.
    """
    reached = {id(parameter) for parameter in differentiated.parameters}
    if not updates.alone or not reached <= {id(tensor) for tensor in differentiated.flat.held}:
        return None
    moments = {}
    for name, optimizer in updates.optimizers.items():
        wanted = [p for p in updates.groups[name] if id(p) in reached]
        found = moments_of(optimizer, wanted) if wanted else None
        if wanted and found is None:
            return None
        if found is not None:
            moments[name] = found
    return Whole(differentiated, updates, moments, given, knobs)

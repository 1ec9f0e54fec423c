"""A compiled step, recorded once as a CUDA graph and replayed: one launch a step, optimizer included.

What a replay reads lies at fixed addresses. Inputs are copied there before it, while parameters, buffers and
moments change where they are. Draws go on from replay to replay: capturing registers the default generator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ppvae.engine.program import Whole

WARM_UP = 3


class Recorder(Protocol):
    """How a computation is recorded: CUDA's way, or a test's."""

    def __call__(
        self, compute: Callable[[], Sequence[Tensor]]
    ) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """(its outputs, whose storage every replay fills anew; the replay)."""
        ...


def cuda_recorder(compute: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
    """Warm up and capture on a side stream, as CUDA wants it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outputs = compute()
    return outputs, graph.replay


class Captured:
    """`Whole`, recorded. The state that it moves is as it was before the recording."""

    def __init__(
        self, program: Whole, given: Any, knobs: Mapping[str, Tensor], recorder: Recorder = cuda_recorder
    ):
        self.program = program
        self.inputs = [value.clone() for value in program.differentiated.inputs(given, knobs)]
        self.rates = [clock.factors.new_zeros(()) for clock in program.clocks.values()]
        with torch.no_grad(), _kept(program.held):
            self.outputs, self.replay = recorder(self._compute)

    def _compute(self) -> list[Tensor]:
        """One step on what lies in `inputs` and `rates`."""
        return list(self.program.call(*self.inputs, *self.rates, *self.program.held))

    @torch.no_grad()
    def __call__(
        self, given: Any, knobs: Mapping[str, Tensor], lr_factor: float = 1.0
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step: (scalars, whether all was finite), valid until the next."""
        program = self.program
        for place, value in zip(self.inputs, program.differentiated.inputs(given, knobs), strict=True):
            place.copy_(value, non_blocking=True)
        for place, rate in zip(self.rates, program.learning_rates(lr_factor), strict=True):
            place.fill_(rate)
        self.replay()
        return dict(zip(program.differentiated.names, self.outputs, strict=False)), self.outputs[-1]

    def resume(self) -> None:
        """Take the step counts over from the torch optimizers."""
        self.program.resume()

    def settle(self) -> None:
        """Hand the step counts back to the torch optimizers."""
        self.program.settle()


@contextlib.contextmanager
def _kept(tensors: Sequence[Tensor]) -> Iterator[None]:
    """After it, tensors and generators are as before; the tensors stay where they are."""
    values = [tensor.clone() for tensor in tensors]
    random = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
        torch.set_rng_state(random)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)

"""The step as a flat graph, compiled; eager, with one line that says why, where that cannot be.

The first batch runs eagerly, with Pyro's validation. On the second the step is traced; the graph is then
replayed against the eager step on that batch with other knobs, since whatever Python had in its hands while
tracing (a float, a dropout flag, a random number of numpy) is frozen in the graph. What differs in a bit is
not used. What is compiled has to agree up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ppvae.built import Built
from ppvae.config import TrainConfig
from ppvae.engine import costs
from ppvae.engine.agreement import ROUNDING, compiled_differs, replay_differs
from ppvae.engine.calls import called_as, modules_of
from ppvae.engine.compiling import CannotCompile
from ppvae.engine.cudagraph import Captured
from ppvae.engine.eager import EagerStep, Read, as_given
from ppvae.engine.program import Differentiated, Halves, Whole, whole
from ppvae.engine.untraceable import CannotTrace
from ppvae.engine.updates import Found
from ppvae.errors import UsageError
from ppvae.estimators.base import Estimator


class GraphStep(EagerStep):
    """A flat graph for each kind of batch, made when the kind is first seen.

    Args:
        compile: False replays the graph operation by operation, which is bit-equal to eager.
    """

    mode = "graph"
    capture = False
    """Whether the compiled step is recorded as a CUDA graph."""

    def __init__(
        self,
        built: Built,
        estimator: Estimator,
        config: TrainConfig,
        read: Read = as_given,
        *,
        compile: bool = True,
    ):
        super().__init__(built, estimator, config, read)
        self.compile = compile
        self.programs: dict[Any, Halves | Whole | Captured | None] = {}
        self.active: Halves | Whole | Captured | None = None
        self.reason: str | None = None
        """Why the last new kind of batch runs eagerly; None where it does not."""

    def differentiate(self, given: Any, knobs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Found]:
        """Operation by operation also where the CPU has an LSTM in one piece, which is no part of a graph."""
        with called_as(modules_of((nn.LSTM,), (self.built, self.estimator)), _in_pieces):
            return super().differentiate(given, knobs)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        self.settle()
        return self.updates.optimizers

    def settle(self) -> None:
        """Let the torch optimizers have their state."""
        self._activate(None)

    @property
    def account(self) -> str | None:
        """Which engine runs, and why."""
        if self.reason is None:
            return None
        if self.active is None:
            return f"engine: eager, there is no graph: {self.reason}"
        return f"engine: graph, not recorded for replay: {self.reason}"

    def __call__(self, given: Any, knobs: Mapping[str, Tensor], lr_factor: float = 1.0) -> dict[str, Tensor]:
        if not self.validated:
            return super().__call__(given, knobs, lr_factor)
        kind = self._kind(given, knobs)
        if kind not in self.programs:
            self.settle()
            self._make(given, knobs)
        program = self.programs[kind]
        self._activate(program)
        if program is None:
            return super().__call__(given, knobs, lr_factor)
        scalars, self.finite = program(given, knobs, lr_factor)
        return scalars

    def _activate(self, program: Halves | Whole | Captured | None) -> None:
        """The state of the optimizers is in one program's hands at a time, or in their own."""
        if program is not self.active:
            if self.active is not None:
                self.active.settle()
            if program is not None:
                program.resume()
            self.active = program

    def _kind(self, given: Any, knobs: Mapping[str, Tensor]) -> Any:
        """What a graph is good for: everything that tracing took for granted."""
        tensors, spec = pytree.tree_flatten(given)
        return (
            tuple((t.shape, t.dtype, t.stride(), t.device) for t in tensors),
            str(spec),
            tuple(knobs),
            self.built.training,
            self.estimator.training,
            self.estimator.particles,
            torch.get_num_threads(),
        )

    def traced(self, given: Any, knobs: Mapping[str, Tensor]) -> Differentiated | None:
        """The flat graph for this kind of batch, bit-equal to eager; None, and a reason, if there is none."""
        self.reason = None
        try:
            traced = Differentiated(self.differentiate, given, knobs, self.buffers().values())
        except CannotTrace as error:
            self.reason = str(error)
            return None
        differs = replay_differs(traced, self.differentiate, self.buffers(), given, knobs)
        if differs is not None:
            self.reason = (
                f"replayed on another batch, the graph gets {differs} otherwise: something that is no tensor "
                "moves from step to step"
            )
        return traced if differs is None else None

    def compiled(self, traced: Differentiated, given: Any, knobs: Mapping[str, Tensor]) -> bool:
        """Make this graph, compiled, the program for its kind of batch; False, and a reason, if it cannot.
        How long it took is remembered, for whoever has to choose."""
        started = time.perf_counter()
        made = self._compiled(traced, given, knobs)
        if made:
            costs.remember_compiling(self.key_of(traced, given, knobs), time.perf_counter() - started)
        return made

    def key_of(self, traced: Differentiated, given: Any, knobs: Mapping[str, Tensor]) -> str:
        """What this machine remembers the graph by."""
        return costs.key_of(traced.flat.graph, [*traced.inputs(given, knobs), *traced.flat.held])

    def _compiled(self, traced: Differentiated, given: Any, knobs: Mapping[str, Tensor]) -> bool:
        try:
            program = whole(traced, self.updates, given, knobs)
            if program is None:
                program = Halves(traced, self.updates)
                program.compile(given, knobs)
            differs = compiled_differs(program, self.buffers(), given, knobs, ROUNDING[self.config.precision])
        except (CannotTrace, CannotCompile) as error:
            self.reason = str(error)
            return False
        if differs is not None:
            self.reason = f"compiled, the graph gets {differs} otherwise than eager"
            return False
        self.programs[self._kind(given, knobs)] = self._recorded(program, given, knobs)
        return True

    def _recorded(
        self, program: Halves | Whole, given: Any, knobs: Mapping[str, Tensor]
    ) -> Halves | Whole | Captured:
        """As one CUDA graph, where that is wanted and can be; else, with a reason, as it is."""
        if not self.capture:
            return program
        if not isinstance(program, Whole):
            self.reason = f"optimizer={self.config.optimizer} is not part of the graph"
            return program
        try:
            return Captured(program, given, knobs)
        except RuntimeError as error:
            self.reason = f"CUDA does not capture it ({str(error).splitlines()[0]})"
            return program

    def _make(self, given: Any, knobs: Mapping[str, Tensor]) -> None:
        """A program for batches of this kind; None where there is none."""
        kind = self._kind(given, knobs)
        self.programs[kind] = None
        traced = self.traced(given, knobs)
        if traced is None:
            return
        if self.compile:
            self.compiled(traced, given, knobs)
        else:
            self.programs[kind] = Halves(traced, self.updates)


def _in_pieces(forward: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        before = torch.backends.mkldnn.set_flags(False)
        try:
            return forward(*args, **kwargs)
        finally:
            torch.backends.mkldnn.set_flags(before[0])

    return called


class CudaGraphStep(GraphStep):
    """`GraphStep`, recorded: one launch a step. It takes a GPU and Adam."""

    mode = "cudagraph"
    capture = True

    def __init__(self, built: Built, *args: Any, **options: Any):
        if built.device is None or built.device.type != "cuda":
            raise UsageError(
                "engine=cudagraph is of GPUs, and this runs on the CPU: use --engine graph, or auto"
            )
        super().__init__(built, *args, **options)

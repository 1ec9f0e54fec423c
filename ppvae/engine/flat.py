"""A computation on tensors as one flat graph: traced below Python, so that nothing of Pyro is left in it.

`make_fx` records what reaches torch's dispatcher. Every handler of Pyro runs once, while tracing; what stays
is a list of tensor operations, backward pass included. All that it reads is an input: what it was called
with, and `held`, the parameters, buffers, data and constants that it found on its way, each once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.engine.untraceable import GENERATOR, CannotTrace, Refusing, explained


@dataclass(frozen=True)
class Flat:
    """`graph(*inputs, *held)` returns the outputs, a flat list; it writes where the computation wrote."""

    graph: fx.GraphModule
    held: tuple[Tensor, ...]
    """What is read beside the inputs, in the order of the graph's placeholders: the tensors themselves."""

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self.graph(*inputs, *self.held)


def flat(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], buffers: Iterable[Tensor] = ()
) -> Flat:
    """Trace `function(*inputs)`; nothing that exists is changed by it, the random state neither.

    Args:
        buffers: what the function may write to beside its inputs.

    Raises:
        CannotTrace: with the reason in one line.
    """

    def watched(*inputs: Tensor) -> Sequence[Tensor]:
        with Refusing():
            return function(*inputs)

    try:
        with _undisturbed(buffers), pyro.validation_enabled(False):
            graph = make_fx(watched, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    except Exception as error:
        raise CannotTrace(explained(error)) from error
    graph.graph.eliminate_dead_code()
    held = _lift(graph)
    _refuse_shared(graph, held)
    return Flat(graph, held)


def _lift(graph: fx.GraphModule) -> tuple[Tensor, ...]:
    """Make an input of every tensor attribute: a compiler may freeze what stays one, and would go on with the
    parameters of the moment of tracing."""
    nodes = [node for node in graph.graph.nodes if node.op == "get_attr"]
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1:]
    first = next(iter(graph.graph.nodes))
    inputs: dict[int, tuple[Tensor, fx.Node]] = {}
    for node in nodes:
        tensor = getattr(graph, str(node.target))
        if not isinstance(tensor, Tensor):  # a torch.Generator
            raise CannotTrace(GENERATOR)
        if id(tensor) not in inputs:
            place = graph.graph.inserting_after(last[0]) if last else graph.graph.inserting_before(first)
            with place:
                made = graph.graph.placeholder(f"held_{len(inputs)}")
            made.meta = dict(node.meta)
            inputs[id(tensor)] = (tensor, made)
            last = [made]
        node.replace_all_uses_with(inputs[id(tensor)][1])
        graph.graph.erase_node(node)
    for name in {str(node.target) for node in nodes}:
        delattr(graph, name)
    graph.recompile()
    return tuple(tensor for tensor, _ in inputs.values())


def written(graph: fx.GraphModule) -> set[fx.Node]:
    """The placeholders that the graph writes to, through whatever views."""
    found, origin = set(), {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
            if argument.alias_info is None:
                continue
            for source in value if isinstance(value, list | tuple) else [value]:
                if not isinstance(source, fx.Node):
                    continue
                root = origin.get(source, source)
                origin[node] = root
                if argument.alias_info.is_write and root.op == "placeholder":
                    found.add(root)
    return found


def _refuse_shared(graph: fx.GraphModule, held: Sequence[Tensor]) -> None:
    """Two inputs in one memory, one of them written to: compiled, each would be a tensor of its own."""
    places = [node for node in graph.graph.nodes if node.op == "placeholder"][-len(held) :] if held else []
    wrote = written(graph)
    for place, tensor in zip(places, held, strict=True):
        shares = [other for other in held if other is not tensor and _memory(other) == _memory(tensor)]
        if place in wrote and shares and tensor.numel():
            raise CannotTrace(
                f"the step writes to a tensor of shape {tuple(tensor.shape)} that shares its memory with "
                "another: clone one of them"
            )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextlib.contextmanager
def _undisturbed(buffers: Iterable[Tensor]) -> Iterator[None]:
    """Tracing runs on tensors without numbers; what reaches real ones all the same, such as a BatchNorm's
    counter, is undone."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    before = [(buffer, buffer.clone()) for buffer in buffers]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)

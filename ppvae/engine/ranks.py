"""The processes that train together: which this is, of how many, and what they tell each other.

Everything is torch.distributed, gloo on the CPU and NCCL on CUDA. A process that ends, or leaves because of
an error, breaks its connections, so that the others get an error at their next word and end, too.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ppvae import launched
from ppvae.errors import RunError, UsageError

TIMEOUT = timedelta(minutes=10)
"""How long one waits for another that is alive and silent: rank 0 may compile, validate or write meanwhile.
One that is dead is noticed at once."""

A = TypeVar("A")


@dataclass(frozen=True)
class Ranks:
    """This process, `rank` of `size`; one alone is rank 0 of 1, and waits for nobody."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes and shows."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Of `rows` rows those of this rank: all ranks together have each once, and as evenly as can be."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def add(self, vector: Tensor) -> Tensor:
        """The sum of the ranks' vectors, in place, bit-equal on all; nothing waits for the device."""
        with _others(self):
            if self.size > 1:
                dist.all_reduce(vector)
        return vector

    def from_first(self, make: Callable[[], A]) -> A:
        """What `make()` gives on rank 0, which alone calls it, on every rank."""
        if self.size == 1:
            return make()
        told = [make() if self.first else None]
        with _others(self):
            dist.broadcast_object_list(told, src=0)
        return told[0]  # type: ignore[return-value]

    def gathered(self, value: A) -> list[A]:
        """What each rank gives, by rank, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _others(self):
            dist.all_gather_object(found, value)
        return found

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Make these tensors those of rank 0, in place."""
        for tensor in tensors if self.size > 1 else ():
            whole = tensor.detach().contiguous()
            with _others(self):
                dist.broadcast(whole, src=0)
            tensor.copy_(whole)

    def refuse_others(self, what: Mapping[str, Any]) -> None:
        """Raise RunError where a rank has one of these otherwise than rank 0."""
        everyone = self.gathered({name: repr(value) for name, value in what.items()})
        for rank, found in enumerate(everyone):
            for name, value in everyone[0].items():
                if found.get(name) != value:
                    raise RunError(
                        f"rank {rank} has another {name} than rank 0, {_short(found.get(name))} and not "
                        f"{_short(value)}: start all with the same options, data and code"
                    )

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Rank 0 goes through the body, then all others: what it fetches or makes is there for them."""
        if not self.first:
            self.gathered(None)
        yield
        if self.first:
            self.gathered(None)


def start_together(ranks: Ranks, built: nn.Module, estimator: nn.Module, told: Mapping[str, Any]) -> None:
    """Let all start from the parameters and buffers of rank 0.

    Args:
        told: by name, what must be the same on all ranks.

    Raises:
        RunError: it is not, or the pairs have other parameters.
    """
    state = {}
    for module, prefix in ((built, ""), (estimator, "estimator.")):
        found = (*module.named_parameters(), *module.named_buffers())
        state |= {f"{prefix}{name}": tensor for name, tensor in found}
    layout = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in state.items()]
    ranks.refuse_others({**told, "list of parameters": layout})
    ranks.spread(state.values())


def here() -> Ranks:
    """This process among those that have been joined."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Inside, this process is joined with those that its launcher started, or that the caller joined it with.

    An error ends that, for the others do not come to where this one would have met them; else it stays so.

    Args:
        device: of the training: on "cuda" each rank takes the GPU of its number on its machine.

    Raises:
        UsageError: there is no GPU for this rank.
        RunError: the processes do not find each other.
    """
    ranks = _join(device) if here().size == 1 and launched.size() > 1 else here()
    try:
        yield ranks
    except BaseException:
        _break_off()
        raise


def _join(device: torch.device) -> Ranks:
    # Imported later, as optimizers do it, its functions would hold the group as the default of an argument;
    # what is held is not destroyed, and its connections stay.
    import torch.distributed.nn

    options: dict[str, Any] = {"backend": "gloo"}
    if device.type == "cuda":
        mine = torch.device("cuda", _own_gpu(device))
        torch.cuda.set_device(mine)
        options = {"backend": "nccl", "device_id": mine}
    try:
        dist.init_process_group(timeout=TIMEOUT, **options)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise RunError(
            f"the {launched.size()} processes did not meet ({reason}): start them by torchrun, all at once"
        ) from error
    atexit.register(_leave)
    return here()


def _own_gpu(device: torch.device) -> int:
    number, count = launched.local_rank(), torch.cuda.device_count()
    if device.index is not None:
        raise UsageError(f"--device {device} is one GPU, and each rank needs its own: use --device cuda")
    if number >= count:
        raise UsageError(
            f"rank {launched.rank()} has no GPU of its own, torch sees {count}: use "
            f"--nproc-per-node {count}, or --device cpu"
        )
    return number


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _break_off() -> None:
    """Leave at once. NCCL would wait for what is under way: the end of the process breaks it off."""
    atexit.unregister(_leave)
    if dist.is_initialized() and dist.get_backend() == "gloo":
        _leave()


@contextlib.contextmanager
def _others(ranks: Ranks) -> Iterator[None]:
    """What torch says of a lost connection, in one line of ours."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        place = reason.rpartition("] ")[2].partition(". ")[0]
        raise RunError(
            f"the other {ranks.size - 1} of {ranks.size} processes are lost ({place}): one of them says why; "
            "go on from the last checkpoint with --resume"
        ) from error


def _short(text: str | None) -> str:
    return str(text) if text is None or len(text) < 100 else f"{text[:97]}..."

"""What a step of several processes costs, on paper: a line for the computing, a ring for the all-reduce.

    computing(P, B)   = overhead + update P + (row P) B                   P parameters, B rows of one process
    all_reduce(S, R)  = 2 (R - 1) (latency + S / (R bandwidth))            S = 4 P bytes, R processes
    step(P, B, R)     = computing(P, B / R) + all_reduce(4 P, R)           a batch of B rows in all

A ring passes S / R bytes 2 (R - 1) times, so that each process sends 2 S (R - 1) / R bytes however many there
are: Patarasuk & Yuan (2009), Bandwidth optimal all-reduce algorithms, J. Parallel Distrib. Comput. 69. Units:
seconds, bytes, rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

BACKWARD = 2 / 3
"""The share of the computing that is the backward pass, two products of three: it can hide an all-reduce."""

BUCKETS = 8
"""Messages of an all-reduce that goes on beside it."""


@dataclass(frozen=True)
class Network:
    """Between processes: seconds for a message of nothing, and bytes a second."""

    latency: float
    bandwidth: float

    def all_reduce(self, size: float, ranks: int) -> float:
        """Seconds to add up a vector of `size` bytes."""
        return 2 * (ranks - 1) * (self.latency + size / (ranks * self.bandwidth))


@dataclass(frozen=True)
class Device:
    """What computes: seconds a step, a parameter, and a parameter and row."""

    overhead: float
    update: float
    row: float

    def computing(self, parameters: float, rows: float) -> float:
        """Seconds of a step without others."""
        return self.overhead + self.update * parameters + self.row * parameters * rows


def step(device: Device, network: Network, parameters: float, batch: float, ranks: int) -> float:
    """Seconds of a step over `batch` rows in all."""
    return device.computing(parameters, batch / ranks) + network.all_reduce(4 * parameters, ranks)


def speed_up(device: Device, network: Network, parameters: float, batch: float, ranks: int) -> float:
    """How many times the step of one process takes as long."""
    return step(device, network, parameters, batch, 1) / step(device, network, parameters, batch, ranks)


def half_batch(device: Device, network: Network, parameters: float, ranks: int) -> float:
    """The batch at which `ranks` processes are worth half their number; below it, fewer do better.

    From fixed + b B = (R / 2) (fixed + b B / R + T): B = (R (fixed + T) - 2 fixed) / b.
    """
    fixed = device.computing(parameters, 0)
    waiting = network.all_reduce(4 * parameters, ranks)
    return max(0.0, (ranks * (fixed + waiting) - 2 * fixed) / (device.row * parameters))


def most_ranks(device: Device, network: Network, parameters: float, batch: float) -> int:
    """The number of processes with the shortest step, of powers of two up to one row each."""
    counts = [2**k for k in range(24) if 2**k <= batch]
    return min(counts, key=lambda ranks: step(device, network, parameters, batch, ranks))


def overlap_saves(
    device: Device, network: Network, parameters: float, batch: float, ranks: int, buckets: int = BUCKETS
) -> float:
    """The share of a step that is saved by sending gradients in `buckets` while the backward pass goes on: at
    most the shorter of both, less the latencies of further messages. Negative: it costs."""
    whole = step(device, network, parameters, batch, ranks)
    backward = BACKWARD * device.row * parameters * batch / ranks
    sending = network.all_reduce(4 * parameters, ranks)
    hidden = min(backward, sending) * (1 - 1 / buckets)  # the last bucket has nothing to hide behind
    return (hidden - 2 * (ranks - 1) * network.latency * (buckets - 1)) / whole


def fitted_device(points: Sequence[tuple[float, float, float]]) -> tuple[Device, float]:
    """The device whose steps (parameters, rows, seconds) these are, by least squares of relative errors, no
    coefficient below 0; and the largest relative error."""
    rows = torch.tensor([[1 / t, p / t, p * b / t] for p, b, t in points], dtype=torch.float64)
    found = _nonnegative(rows)
    return Device(*found.tolist()), float((rows @ found - 1).abs().max())


def fitted_network(points: Sequence[tuple[float, float]], ranks: int) -> tuple[Network, float]:
    """The network whose all-reduces (bytes, seconds) these are; and the largest relative error."""
    times = [[2 * (ranks - 1) / t, 2 * (ranks - 1) * size / ranks / t] for size, t in points]
    rows = torch.tensor(times, dtype=torch.float64)
    found = _nonnegative(rows)
    latency, per_byte = found.tolist()
    return Network(latency, 1 / max(per_byte, 1e-15)), float((rows @ found - 1).abs().max())


def _nonnegative(rows: torch.Tensor) -> torch.Tensor:
    """argmin |rows x - 1|^2 over x >= 0: the best of all choices of columns whose own solution is there."""
    best, found = float("inf"), torch.zeros(rows.shape[1], dtype=rows.dtype)
    for mask in range(1, 2 ** rows.shape[1]):
        chosen = [i for i in range(rows.shape[1]) if mask >> i & 1]
        solution = torch.linalg.lstsq(rows[:, chosen], torch.ones(len(rows), 1, dtype=rows.dtype)).solution
        missed = float((rows[:, chosen] @ solution - 1).square().sum())
        if float(solution.min()) >= 0 and missed < best:
            best, found = missed, torch.zeros_like(found)
            found[chosen] = solution[:, 0]
    return found

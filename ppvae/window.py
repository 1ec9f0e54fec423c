"""Means of what the steps since the last line of the log returned, summed on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FINITE = "finite"


class Window:
    """Sums over the steps whose loss and gradients were finite; what a step returns is never read here."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.count = 0
        """Steps, the skipped ones included."""
        self._totals: dict[tuple[str, ...], Tensor] = {}

    def add(self, scalars: Mapping[str, Tensor], finite: Tensor) -> None:
        """One more step; one that is not finite is counted alone. All scalars are added at once."""
        row = torch.stack([*scalars.values(), finite.to(torch.get_default_dtype())])
        row = torch.where(finite, row, torch.zeros((), dtype=row.dtype, device=row.device))
        names = (*scalars, FINITE)
        self._totals[names] = self._totals[names] + row if names in self._totals else row
        self.count += 1

    @property
    def sums(self) -> dict[str, Tensor]:
        """The sum of each scalar, and under `finite` the number of finite steps."""
        found: dict[str, Tensor] = {}
        for names, row in self._totals.items():
            for name, value in zip(names, row.unbind(), strict=True):
                found[name] = found[name] + value if name in found else value
        return found

    def restore(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Go on from saved sums."""
        self.clear()
        if sums:
            self._totals[tuple(sums)] = torch.stack(list(sums.values()))
        self.count = count

    def means(self) -> tuple[dict[str, float], int]:
        """(the mean of each scalar over the finite steps, how many were not). NaN where there is no finite
        step."""
        sums = {name: float(total) for name, total in self.sums.items()}
        steps = sums.pop(FINITE, 0.0)
        means = {name: total / steps if steps else float("nan") for name, total in sums.items()}
        return means, self.count - round(steps)

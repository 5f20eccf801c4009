"""Means of what the steps report, kept on the device until they are read."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.trainer.distributed import mean_over_ranks


class Averages:
    """Running means of named scalars over a logging interval and over ranks.

    `add` never waits for the device; `read` does, once, and starts a new interval. All ranks must
    add the same names.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in one step's scalars."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.float()
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means since the last call; collective."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        self._sums.clear()
        self._counts.clear()
        return dict(zip(names, mean_over_ranks(means).tolist(), strict=True))

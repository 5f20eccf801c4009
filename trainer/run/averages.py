"""Averages of the values that training steps report, kept on the device until they are read."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.trainer.distributed.collectives import sum_over_ranks


class Averages:
    """Means of named scalars over a logging interval and over ranks; non-finite values are ignored.

    `add` never synchronises with the device; `read` does so once, and starts a new interval. All
    ranks must add the same names.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the scalars of one step."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def read(self) -> dict[str, float]:
        """The means since the last call, NaN where no value was finite; collective."""
        if not self._values:
            return {}
        names = sorted(self._values)
        sums, counts = [], []
        for name in names:
            values = torch.stack(self._values[name]).float()
            sums.append(values.nan_to_num(0.0, 0.0, 0.0).sum())
            counts.append(values.isfinite().sum())
        self._values.clear()
        total, count = sum_over_ranks(torch.stack([torch.stack(sums), torch.stack(counts)]))
        return dict(zip(names, (total / count).tolist(), strict=True))
